// An agent and a hub, both real, with a network between them that a test can break, disks that remember their history,
// and images that behave like storage. It looks at the rules of replication at any moment, from outside.
import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { Agent } from '../../src/repagent/agent.ts';
import { DirtyMap } from '../../src/repagent/dirty-map.ts';
import { type Hub, startHub } from '../../src/rephub/hub.ts';
import { CutProxy } from './cut-proxy.ts';
import { expectSame, FAST, SMALL_CHUNKS } from './hub-harness.ts';
import { type MemoryImage, MemoryImages } from './memory-images.ts';
import { ReplicationDisk } from './replication-disk.ts';
import { waitUntil } from './wait-until.ts';

const CHUNK = 65_536;
const SECTOR = 512;
const FOLLOWED: readonly string[] = ['initial-sync', 'resync', 'converging', 'protected'];

export interface WorldOptions {
  readonly sizes: Readonly<Record<string, number>>;
  /** Seeds the order in which disks answer; null: at once. */
  readonly jumble: number | null;
  readonly queueBytes: number;
}

export interface WorldVolume {
  readonly name: string;
  readonly disk: ReplicationDisk;
  /** What the guest uses. */
  guest: BlockDevice;
  map: DirtyMap;
  /** This life of the agent was followed by a hub. */
  followed: boolean;
}

export class World {
  readonly options: WorldOptions;
  readonly proxy: CutProxy;
  readonly volumes: WorldVolume[] = [];
  /** How often each rule was looked at. */
  readonly looks = { prefix: 0, acks: 0, silent: 0 };
  images: MemoryImages;
  agent!: Agent;
  hub: Hub | undefined;
  readonly #agentId = randomBytes(16);
  readonly #hubTuning = { ...FAST, deadMs: 600, sync: SMALL_CHUNKS };
  readonly #waiting = new Set<Promise<void>>();
  #failures = 0;
  #unexpected: unknown;

  private constructor(options: WorldOptions, proxy: CutProxy) {
    this.options = options;
    this.proxy = proxy;
    this.images = new MemoryImages(options.sizes);
  }

  static async create(options: WorldOptions): Promise<World> {
    const world = new World(options, await CutProxy.listen(1));
    for (const [name, sizeBytes] of Object.entries(options.sizes)) {
      const disk = new ReplicationDisk({
        sizeBytes,
        jumble: options.jumble,
        sequence: () => world.agent.stats.sequence,
      });
      world.volumes.push({ name, disk, guest: disk, map: undefined as never, followed: false });
    }
    await world.startHub();
    world.startAgent();
    return world;
  }

  image(volume: WorldVolume): MemoryImage {
    return this.images.image(volume.name);
  }

  async startHub(): Promise<void> {
    // An image that can't be opened keeps a hub from starting, in words.
    for (const { openFaults } of this.images.images.values()) openFaults.length = 0;
    this.hub = await startHub({
      listen: { host: '127.0.0.1', port: 0 },
      pairs: new Map(this.volumes.map(({ name }) => [name, name])),
      logger: silentLogger,
      images: this.images,
      pingIntervalMs: 100,
      tuning: this.#hubTuning,
    });
    this.proxy.targetPort = this.hub.address.port;
  }

  async stopHub(): Promise<void> {
    const { hub } = this;
    this.hub = undefined;
    await hub?.close();
  }

  /** The hub's machine loses power: what was not durable is gone. */
  async crashHub(): Promise<void> {
    const left = new MemoryImages(this.options.sizes);
    for (const volume of this.volumes) {
      const image = left.image(volume.name);
      image.durable = Buffer.from(this.image(volume).durable);
      image.visible = Buffer.from(image.durable);
    }
    this.proxy.cut();
    await this.stopHub();
    this.images = left;
  }

  startAgent(): void {
    this.agent = new Agent({
      hubHost: '127.0.0.1',
      hubPort: this.proxy.port,
      vmName: 'vm',
      agentId: this.#agentId,
      logger: silentLogger,
      queueBytes: this.options.queueBytes,
      overflowHold: { longestMs: 20 },
      pingIntervalMs: 100,
      pingDeadMs: 600,
      reportRetryMs: 50,
      shutdownTimeoutMs: 200,
      reconnect: { firstMs: 2, longestMs: 20, steadyMs: 5000, connectTimeoutMs: 1000 },
    });
    for (const volume of this.volumes) {
      volume.disk.restart();
      const [guest, map] = capture(() => this.agent.protect(volume.name, volume.disk));
      volume.guest = guest;
      volume.map = map;
      volume.followed = false;
    }
    this.agent.start();
  }

  /** The agent's process ends, in order or not, and another one begins on the same disks. */
  async replaceAgent(abruptly: boolean): Promise<void> {
    await this.guestsAnswered();
    if (abruptly) {
      this.proxy.cut();
      this.proxy.refuses = true;
    }
    await this.agent.close();
    this.proxy.refuses = false;
    this.startAgent();
  }

  /** What a guest does. A disk that answers at once must still do so with a mirror over it. */
  change(volume: WorldVolume, mutation: Mutation): void {
    const isPooled = mutation.kind === 'write' && mutation.offset % 1024 === 0;
    const slab = isPooled ? sharedPool.acquire(mutation.data.length) : undefined;
    let lent = mutation;
    if (mutation.kind === 'write') {
      const data = slab
        ? slab.bytes.subarray(0, mutation.data.length)
        : Buffer.allocUnsafe(mutation.data.length);
      mutation.data.copy(data);
      lent = { ...mutation, data };
    }
    const answered = (): void => {
      if (slab) slab.release();
      else if (lent.kind === 'write') lent.data.fill(0xdd);
    };
    const failed = (error: unknown): void => {
      this.#failures += 1;
      if (!String(error).includes('that was to fail')) this.#unexpected ??= error;
    };
    let result: MaybePromise<void> | undefined;
    try {
      result = applyMutation(volume.guest, lent);
    } catch (error) {
      failed(error);
    } finally {
      volume.disk.told();
    }
    if (result instanceof Promise) {
      expect(this.options.jumble, 'a disk that answers at once must not be made slow').not.toBeNull();
      const promise: Promise<void> = result.catch(failed).finally(() => {
        answered();
        this.#waiting.delete(promise);
      });
      this.#waiting.add(promise);
    } else {
      answered();
    }
  }

  /** Waits for the guests' requests, which never takes longer than the disks do, and fails only where they failed. */
  async guestsAnswered(): Promise<void> {
    await waitUntil(() => this.#waiting.size === 0, {
      what: 'answers to guests',
      timeoutMs: 3000,
      intervalMs: 1,
    });
    if (this.#unexpected) throw new Error('unexpected', { cause: this.#unexpected });
    const faults = this.volumes.reduce((sum, { disk }) => sum + disk.faults, 0);
    expect(this.#failures, 'failures that guests saw').toBe(faults);
  }

  /** Lets so many turns of the event loop pass. */
  async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i += 1) await turn();
  }

  status(volume: WorldVolume): VolumeStatus {
    return this.agent.status().volumes.find(({ name }) => name === volume.name)!;
  }

  hubStatus(volume: WorldVolume): VolumeStatus | undefined {
    return this.hub?.status().find(({ name }) => name === volume.name);
  }

  /** Looks at every rule, now. */
  check(): void {
    for (const volume of this.volumes) {
      if (FOLLOWED.includes(this.status(volume).state)) volume.followed = true;
      this.#checkNothingSilent(volume);
      this.#checkPrefix(volume);
      this.#checkAcked(volume);
    }
  }

  /** A chunk in which disk and durable replica differ is in the dirty map. */
  #checkNothingSilent(volume: WorldVolume): void {
    this.looks.silent += 1;
    const disk = volume.disk.content;
    const { durable } = this.image(volume);
    if (disk.equals(durable)) return;
    for (let at = 0; at < disk.length; at += CHUNK) {
      const end = Math.min(at + CHUNK, disk.length);
      if (disk.subarray(at, end).equals(durable.subarray(at, end))) continue;
      if (!volume.map.isDirty(at, end - at)) {
        expect.fail(`${volume.name}: chunk at ${at} differs and nobody knows; ${this.describe(volume)}`);
      }
    }
  }

  /** A replica that is protected is the disk at the stream's position. */
  #checkPrefix(volume: WorldVolume): void {
    const status = this.hubStatus(volume);
    const image = this.image(volume);
    if (status?.state !== 'protected' || !volume.followed || image.isBusy) return;
    this.looks.prefix += 1;
    const { history } = volume.disk;
    const { least, most } = history.span(status.sequence);
    for (let count = least; count <= most; count += 1) if (history.at(count).equals(image.visible)) return;
    expectSame(
      image.visible,
      history.at(least),
      `${volume.name} at ${status.sequence}; ${this.describe(volume)}`,
    );
  }

  /** What was acknowledged is durable, or something newer in its place. */
  #checkAcked(volume: WorldVolume): void {
    const { ackedSequence } = this.status(volume);
    if (ackedSequence === 0) return;
    this.looks.acks += 1;
    const { history } = volume.disk;
    const { least } = history.span(ackedSequence);
    const acked = history.at(least);
    const { durable } = this.image(volume);
    if (acked.equals(durable)) return;
    for (let at = 0; at < acked.length; at += SECTOR) {
      const sector = durable.subarray(at, at + SECTOR);
      if (sector.equals(acked.subarray(at, at + SECTOR)) || history.heldSince(least, at, sector)) continue;
      expect.fail(`${volume.name}: offset ${at} is acknowledged and not durable; ${this.describe(volume)}`);
    }
  }

  describe(volume: WorldVolume): string {
    const pick = (one: VolumeStatus | undefined): string =>
      one
        ? `${one.state} seq=${one.sequence} acked=${one.ackedSequence} dirty=${one.dirtyBytes} error=${one.lastError}`
        : 'none';
    const { state, lastError } = this.agent.status().link;
    return `agent: ${pick(this.status(volume))}, link ${state} ${lastError}; hub: ${pick(this.hubStatus(volume))}`;
  }

  /** Ends every fault, and waits until the replicas are what the disks are. */
  async heal(timeoutMs = 20_000): Promise<void> {
    await this.guestsAnswered();
    this.proxy.refuses = false;
    this.proxy.delayMs = 0;
    this.proxy.goOn();
    this.proxy.endSilent();
    for (const volume of this.volumes) {
      volume.disk.failReads = 0;
      volume.disk.failNext = 0;
      const image = this.image(volume);
      image.appendFaults = [];
      image.commitFaults = [];
      image.openFaults = [];
    }
    if (!this.hub) await this.startHub();
    const endsAt = performance.now() + timeoutMs;
    while (!this.volumes.every((volume) => this.#isWhole(volume))) {
      if (performance.now() > endsAt) {
        expect.fail(`not protected: ${this.volumes.map((volume) => this.describe(volume)).join(' | ')}`);
      }
      this.check();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.check();
    for (const volume of this.volumes) {
      expectSame(this.image(volume).visible, volume.disk.content, `the replica of ${volume.name}`);
      expectSame(this.image(volume).durable, volume.disk.content, `what is durable of ${volume.name}`);
    }
    expect(this.agent.stats.queuedBytes).toBe(0);
  }

  async close(): Promise<void> {
    await this.agent.close();
    await this.stopHub();
    await this.proxy.close();
  }

  #isWhole(volume: WorldVolume): boolean {
    const agent = this.status(volume);
    const hub = this.hubStatus(volume);
    return (
      agent.state === 'protected' &&
      agent.dirtyBytes === 0 &&
      hub?.state === 'protected' &&
      hub.dirtyBytes === 0
    );
  }
}

/** The map that is made meanwhile: it is nobody's business but the volume's, and the rules are about it. */
function capture<T>(make: () => T): [T, DirtyMap] {
  const original = DirtyMap.prototype.reset;
  let map: DirtyMap | undefined;
  DirtyMap.prototype.reset = function reset(this: DirtyMap) {
    map = this;
    original.call(this);
  };
  try {
    const value = make();
    return [value, map!];
  } finally {
    DirtyMap.prototype.reset = original;
  }
}
