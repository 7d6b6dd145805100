// Random lives of one disk with three hubs: two real ones whose networks and machines break, each by itself, and a third
// that writes to the disk itself and misbehaves. At every moment each replica that is protected is the disk at some
// moment, and what differs is known; when the faults end both replicas are the disk. HUBS_SEED=n runs one seed again.
import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import type { HubVolumeStatus } from '../../src/control/status.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { AgentGroup } from '../../src/repagent/agent-group.ts';
import { MirrorFilter } from '../../src/repagent/mirror-filter.ts';
import type { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import { type Hub, startHub } from '../../src/rephub/hub.ts';
import * as encode from '../../src/repwire/encode.ts';
import { CutProxy } from '../support/cut-proxy.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeHub } from '../support/fake-hub.ts';
import { expectSame, FAST, SMALL_CHUNKS } from '../support/hub-harness.ts';
import { JumbleDevice } from '../support/jumble-device.ts';
import { MemoryImage, MemoryImages } from '../support/memory-images.ts';
import { testSeed } from '../support/test-seed.ts';
import { PrefixCheck, TruthDevice } from '../support/truth-device.ts';
import { waitUntil } from '../support/wait-until.ts';

const CHUNK = 65_536;
const SIZE = 4 * CHUNK + 512;
const STEPS = 150;
const QUEUES = [3000, 20_000, 200_000, 4_000_000];

const looks = { prefix: 0, silent: 0, remote: 0, overflows: 0 };

/** A hub and its replica, behind a network of its own. */
class Site {
  readonly name: string;
  readonly proxy: CutProxy;
  image = new MemoryImage(SIZE);
  readonly check: PrefixCheck;
  /** What the agent keeps of it. */
  volume!: ProtectedVolume;
  hub: Hub | undefined;
  readonly #visible = this.image.visible;

  constructor(name: string, proxy: CutProxy, truth: TruthDevice) {
    this.name = name;
    this.proxy = proxy;
    this.check = new PrefixCheck(truth, this.#visible);
  }

  async start(): Promise<void> {
    this.image.openFaults = [];
    const images = new MemoryImages();
    images.images.set('disk', this.image);
    this.hub = await startHub({
      listen: { host: '127.0.0.1', port: 0 },
      pairs: new Map([['disk', 'disk']]),
      logger: silentLogger,
      images,
      pingIntervalMs: 100,
      tuning: { ...FAST, deadMs: 600, sync: SMALL_CHUNKS },
    });
    this.proxy.targetPort = this.hub.address.port;
  }

  /** Its machine loses power: what was not durable is gone. */
  async crash(): Promise<void> {
    const durable = Buffer.from(this.image.durable);
    this.proxy.cut();
    await this.hub?.close();
    this.hub = undefined;
    const { violations } = this.image;
    durable.copy(this.#visible);
    this.image = new MemoryImage(SIZE);
    this.image.visible = this.#visible;
    this.image.durable = durable;
    this.image.violations.push(...violations);
  }

  get isProtected(): boolean {
    const status = this.hub?.status().find(({ name }) => name === 'disk');
    return status?.state === 'protected' && !this.image.isBusy;
  }

  /** Looks at the rules. @param disk as it is now */
  look(disk: Buffer): void {
    const { durable } = this.image;
    looks.silent += 1;
    for (let at = 0; at < SIZE; at += CHUNK) {
      const end = Math.min(at + CHUNK, SIZE);
      if (disk.subarray(at, end).equals(durable.subarray(at, end))) continue;
      if (!this.volume.map.isDirty(at, end - at)) {
        expect.fail(`${this.name}: the chunk at ${at} differs and nobody knows`);
      }
    }
    if (!this.isProtected) return;
    looks.prefix += 1;
    this.check.replicaChanged(0, SIZE);
    const wrong = this.check.check();
    if (wrong !== undefined) expect.fail(`${this.name}: ${wrong}`);
  }
}

class Run {
  readonly int: (max: number) => number;
  readonly #truth: TruthDevice;
  readonly #sites: readonly Site[];
  readonly #wild: FakeHub;
  readonly #group: AgentGroup;
  readonly #guest: BlockDevice;
  readonly #isSlow: boolean;
  readonly #waiting = new Set<Promise<void>>();
  #requestId = 0;

  private constructor(
    int: (max: number) => number,
    isSlow: boolean,
    truth: TruthDevice,
    sites: readonly Site[],
    wild: FakeHub,
    group: AgentGroup,
    guest: BlockDevice,
  ) {
    this.int = int;
    this.#isSlow = isSlow;
    this.#truth = truth;
    this.#sites = sites;
    this.#wild = wild;
    this.#group = group;
    this.#guest = guest;
  }

  static async create(seed: number): Promise<Run> {
    const random = seededRandom(seed);
    const int = (max: number): number => Math.floor(random() * max);
    const raw = new MemoryDevice({ sizeBytes: SIZE });
    const truth = new TruthDevice(raw, raw);
    const isSlow = int(2) === 0;
    const disk = isSlow ? new JumbleDevice(truth, seed) : truth;
    const sites: Site[] = [];
    for (const name of ['near', 'far']) sites.push(new Site(name, await CutProxy.listen(1), truth));
    for (const site of sites) await site.start();
    const wild = await FakeHub.listen();
    const group = new AgentGroup(
      [
        ...sites.map(({ name, proxy }) => ({ name, hubPort: proxy.port })),
        { name: 'wild', hubPort: wild.port },
      ].map((hub) => ({ ...hub, hubHost: '127.0.0.1', logger: silentLogger })),
      {
        vmName: 'vm',
        agentId: randomBytes(16),
        queueBytes: QUEUES[int(QUEUES.length)]!,
        pingIntervalMs: 100,
        pingDeadMs: 600,
        reportRetryMs: 50,
        shutdownTimeoutMs: 200,
        reconnect: { firstMs: 2, longestMs: 20, steadyMs: 5000, connectTimeoutMs: 1000 },
      },
    );
    const [guest, mirrors] = capture(() => group.protect('disk', disk, () => undefined));
    sites.forEach((site, at) => {
      site.volume = mirrors[at]!;
    });
    group.start();
    return new Run(int, isSlow, truth, sites, wild, group, guest);
  }

  async step(): Promise<void> {
    const kind = this.int(100);
    const site = this.#sites[this.int(2)]!;
    const { proxy } = site;
    if (kind < 45) this.#change();
    else if (kind < 60) this.#writeRemotely();
    else if (kind < 75) await this.#turns(1 + this.int(12));
    else if (kind < 80) await this.#wait(this.int(15));
    else if (kind < 83) proxy.cut();
    else if (kind < 85) proxy.cutAfter(this.int(30_000), this.int(2) === 0 ? 'up' : 'down');
    else if (kind < 88) proxy.stall();
    else if (kind < 93) proxy.goOn();
    else if (kind < 94) proxy.goSilent();
    else if (kind < 96) this.#slowDown(site);
    else if (kind < 97) await this.#restart(site);
    else if (kind < 99) this.#misbehave();
    else await this.#wait(60);
    this.look();
  }

  look(): void {
    const disk = this.#truth.content();
    for (const site of this.#sites) site.look(disk);
  }

  #change(): void {
    for (let left = 1 + this.int(6); left > 0; left -= 1) {
      const result = applyMutation(this.#guest, this.#mutation());
      if (!(result instanceof Promise)) continue;
      // No hub makes a disk slow that answers at once.
      expect(this.#isSlow).toBe(true);
      this.#waiting.add(result);
      void result.finally(() => this.#waiting.delete(result));
    }
  }

  #mutation(): Mutation {
    const offset = 512 * this.int(SIZE / 512 - 40);
    const length = 512 * (1 + this.int(40));
    const kind = this.int(8);
    if (kind === 0) return { kind: 'flush' };
    if (kind === 1) return { kind: 'trim', offset, length, fua: false };
    if (kind === 2) return { kind: 'writeZeroes', offset, length, fua: false, mayTrim: true };
    return { kind: 'write', offset, data: pattern(length, 1 + this.int(1e9)), fua: false };
  }

  /** The third hub writes: the first two have to hear of it. */
  #writeRemotely(): void {
    const connection = this.#wild.connections.at(-1);
    if (!connection?.started.has('disk') || connection.over || connection.ended) return;
    for (let left = 1 + this.int(3); left > 0; left -= 1) {
      const length = 512 * (1 + this.int(16));
      const offset = 512 * this.int(SIZE / 512 - 16);
      this.#requestId += 1;
      looks.remote += 1;
      connection.send(
        encode.encodeRemoteIoRequest(this.#requestId, connection.idOf('disk'), offset, length, false),
        pattern(length, 1 + this.int(1e9)),
      );
    }
  }

  #misbehave(): void {
    const connection = this.#wild.connections.at(-1);
    if (!connection || connection.over || connection.ended) return;
    const kind = this.int(4);
    if (kind === 0) connection.cut();
    else if (kind === 1) connection.send(randomBytes(200));
    else if (kind === 2) connection.pause();
    else connection.resume();
  }

  #slowDown({ image }: Site): void {
    image.isSlow = this.int(2) === 0;
    const waitMs = this.int(3) * 10;
    image.commitGate = waitMs === 0 ? undefined : () => new Promise((resolve) => setTimeout(resolve, waitMs));
  }

  async #restart(site: Site): Promise<void> {
    await site.crash();
    this.#change();
    this.look();
    await site.start();
  }

  async #turns(count: number): Promise<void> {
    for (let left = count; left > 0; left -= 1) await turn();
  }

  async #wait(ms: number): Promise<void> {
    const endsAt = performance.now() + ms;
    while (performance.now() < endsAt) {
      this.look();
      await turn();
    }
  }

  at(name: string): HubVolumeStatus {
    return this.#group.status().volumes[0]!.hubs!.find(({ hub }) => hub === name)!;
  }

  /** Ends every fault; both replicas become the disk. */
  async heal(): Promise<void> {
    await waitUntil(() => this.#waiting.size === 0, { what: 'answers to the guest', timeoutMs: 3000 });
    // Whatever the third one still wants is carried out, and nothing more comes from it.
    await this.#wild.close();
    await this.#turns(20);
    for (const { proxy, image } of this.#sites) {
      proxy.goOn();
      proxy.endSilent();
      image.isSlow = false;
      image.commitGate = undefined;
    }
    const isWhole = ({ name, isProtected }: Site): boolean => {
      const { state, dirtyBytes } = this.at(name);
      return state === 'protected' && dirtyBytes === 0 && isProtected;
    };
    const endsAt = performance.now() + 20_000;
    while (!this.#sites.every(isWhole)) {
      if (performance.now() > endsAt) {
        expect.fail(`not whole: ${JSON.stringify(this.#sites.map(({ name }) => this.at(name)))}`);
      }
      this.look();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.look();
    for (const { name, image } of this.#sites) {
      expectSame(image.visible, this.#truth.content(), `the replica of ${name}`);
      expectSame(image.durable, this.#truth.content(), `what is durable of ${name}`);
      expect(image.violations).toEqual([]);
    }
  }

  async close(): Promise<void> {
    await this.#group.close();
    looks.overflows += this.#group.stats.overflows;
    for (const { hub, proxy } of this.#sites) {
      await hub?.close();
      await proxy.close();
    }
    await this.#wild.close().catch(() => undefined);
  }
}

/** The mirrors that are made meanwhile, in the order of the hubs. */
function capture<T>(make: () => T): [T, ProtectedVolume[]] {
  const { join } = MirrorFilter.prototype;
  const mirrors: ProtectedVolume[] = [];
  MirrorFilter.prototype.join = function (mirror) {
    mirrors.push(mirror as ProtectedVolume);
    join.call(this, mirror);
  };
  try {
    return [make(), mirrors];
  } finally {
    MirrorFilter.prototype.join = join;
  }
}

async function live(seed: number): Promise<void> {
  const run = await Run.create(seed);
  try {
    for (let step = 0; step < STEPS; step += 1) await run.step();
    await run.heal();
  } catch (error) {
    throw new Error(`HUBS_SEED=${seed}: ${(error as Error).message}`, { cause: error });
  } finally {
    await run.close();
  }
}

const given = process.env.HUBS_SEED;
const seeds = given ? [Number(given)] : [1, 2, 3, 4, 5, 6, 7, 8, testSeed()];

describe('several hubs, each with a network of its own that breaks', () => {
  const liveBytes = sharedPool.liveBytes;

  it.each(seeds)('keep every rule, seed %i', (seed) => live(seed), 60_000);

  afterAll(() => {
    expect(sharedPool.liveBytes, 'bytes that were kept for a hub and never given back').toBe(liveBytes);
    if (given) return;
    expect(looks.prefix).toBeGreaterThan(seeds.length * 10);
    expect(looks.remote).toBeGreaterThan(seeds.length);
    expect(looks.overflows).toBeGreaterThan(seeds.length);
  });
});
