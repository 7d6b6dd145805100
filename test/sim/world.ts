// An agent, a hub and their network, all of it the product's own code on virtual time, with disks of a test. After every
// single event it looks at the rules of replication, from outside.
import { createHash } from 'node:crypto';
import { silentLogger } from '../../src/base/log.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import { Agent } from '../../src/repagent/agent.ts';
import type { MirrorStream } from '../../src/repagent/mirror-stream.ts';
import type { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import { type Hub, startHub } from '../../src/rephub/hub.ts';
import type { Replica } from '../../src/rephub/replica.ts';
import type { SyncTuning } from '../../src/rephub/sync-engine.ts';
import { catchErrors } from './catch-errors.ts';
import { Clock, Host } from './clock.ts';
import { Network } from './network.ts';
import { observe } from './observer.ts';
import {
  ackedLost,
  contractBroken,
  guestDelayed,
  newVolume,
  notAPrefix,
  silentDifference,
  type WorldVolume,
} from './rules.ts';
import { fillSector, SECTOR } from './sectors.ts';
import { SimDisk } from './sim-disk.ts';
import { SimImage, SimImages, type WrapStore } from './sim-images.ts';
import { SlabCount } from './slab-count.ts';
import { VolumeTruth } from './truth.ts';

const HUB_PORT = 9010;
const AGENT_ID = createHash('sha256').update('simulated agent').digest().subarray(0, 16);

/** Entries that a full queue doesn't refuse: lists of what is dirty. */
const NEVER_REFUSED_BYTES = 16 * 1024;

export interface WorldOptions {
  readonly random: () => number;
  /** Names and sizes of the volumes, bytes. */
  readonly sizes: Readonly<Record<string, number>>;
  readonly queueBytes: number;
  readonly sync: SyncTuning;
  readonly wrapStore?: WrapStore | undefined;
}

export class World {
  readonly options: WorldOptions;
  readonly clock: Clock;
  readonly net: Network;
  readonly volumes: WorldVolume[] = [];
  /** How often each rule was looked at. */
  readonly looks = { prefix: 0, acks: 0, silent: 0, overflows: 0, protections: 0 };
  /** The first thing that was wrong. */
  wrong: string | undefined;
  agentHost = new Host('agent');
  hubHost = new Host('hub');
  agent: Agent | undefined;
  hub: Hub | undefined;
  readonly #images: SimImages;
  readonly #undo: Array<() => void> = [];
  readonly #slabs: SlabCount;
  #wasKilled = false;
  #trace = 0;
  #lines: string[] = [];
  #nextTag = 1;
  #life = 0;
  /** Of the present life of the hub. */
  #hubEpoch = 0n;
  /** Which life of the agent said HELLO with which epoch. */
  readonly #epochs = new Map<bigint, number>();
  #isClosing = false;
  readonly #isTracing = process.env.SIM_TRACE === '1';

  constructor(options: WorldOptions) {
    this.options = options;
    this.clock = new Clock(options.random);
    this.net = new Network(this.clock, options.random);
    this.net.told = (host, bytes) => this.note(host === this.agentHost ? 1 : 2, bytes);
    this.net.greeted = (host, epoch) => {
      if (host === this.agentHost) this.#epochs.set(epoch, this.#life);
      if (host === this.hubHost) this.#hubEpoch = epoch;
    };
    for (const [name, sizeBytes] of Object.entries(options.sizes)) {
      const disk = new SimDisk(this.clock, options.random, sizeBytes, 0);
      const image = new SimImage(new SimDisk(this.clock, options.random, sizeBytes, 2_000_000_000));
      this.volumes.push(newVolume(name, disk, image));
    }
    this.#images = new SimImages(
      new Map(this.volumes.map(({ name, image }) => [name, image])),
      options.wrapStore,
    );
    this.#slabs = new SlabCount();
    this.#undo.push(() => this.#slabs.end());
    this.#undo.push(this.clock.install());
    this.#undo.push(
      observe(this.clock, {
        entered: (host, volume, sequence, offset, length) => {
          const own = this.#own(host, volume);
          if (!own || sequence === 0) return;
          own.truth.entered(sequence, offset / SECTOR, (offset + length) / SECTOR);
          this.note(3, sequence);
        },
        named: (host, volume, sequence) => this.#own(host, volume)?.truth.named(sequence),
        started: (host, volume, hubKey) => {
          const own = this.#own(host, volume);
          if (own && hubKey?.endsWith(`:${this.#hubEpoch}`)) own.isReplaced = false;
        },
        attached: (replica) => this.#attached(replica),
        queued: (host, stream) => this.#queued(host, stream),
      }),
    );
    this.#undo.push(catchErrors((error) => this.#uncaught(error)));
    this.clock.afterEvent = () => this.check();
    this.clock.onThrow = (error) => this.#uncaught(error);
  }

  /** A number that two runs of one seed share, and no two others do. */
  get traceHash(): number {
    return this.#trace;
  }

  /** The last things that happened, when SIM_TRACE=1. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Something happened that the next run of this seed must do at the same moment. */
  note(kind: number, value: number): void {
    const time = Math.round(this.clock.nowMs * 1e6) % 0x7fff_ffff;
    this.#trace = (Math.imul(this.#trace ^ time, 0x01000193) + Math.imul(kind * 31 + value, 0x85eb_ca6b)) | 0;
  }

  tell(what: string): void {
    this.note(9, what.length);
    if (!this.#isTracing) return;
    this.#lines.push(`${this.clock.nowMs.toFixed(3).padStart(12)} ${what}`);
  }

  fail(what: string): void {
    this.wrong ??= what;
  }

  /** Lets virtual time pass. */
  pass(ms: number, isOver: () => boolean = () => false): boolean {
    return this.clock.runUntil(this.clock.nowMs + ms, () => this.wrong !== undefined || isOver());
  }

  startHub(): void {
    const host = new Host('hub');
    this.hubHost = host;
    for (const volume of this.volumes) {
      volume.replica = undefined;
      volume.image.disk.owner = host;
    }
    this.tell('the hub starts');
    this.clock.as(host, () => {
      startHub({
        listen: { host: 'sim', port: HUB_PORT },
        pairs: new Map(this.volumes.map(({ name }) => [name, name])),
        logger: silentLogger,
        hubName: 'hub',
        images: this.#images,
        createServer: this.net.serverOf(host),
        tuning: { sync: this.options.sync },
      }).then(
        (hub) => {
          this.hub = hub;
        },
        (error: unknown) => {
          // An image that can't be opened keeps a hub from starting, in words.
          this.tell(`the hub did not start: ${String(error)}`);
          host.isAlive = false;
          for (const { image } of this.volumes) image.processDied();
          this.clock.after(500, null, () => {
            if (this.hubHost === host && !this.#isClosing) this.startHub();
          });
        },
      );
    });
  }

  /** In order. */
  stopHub(): void {
    const { hub, hubHost } = this;
    this.hub = undefined;
    if (!hub || !hubHost.isAlive) return;
    this.tell('the hub is stopped');
    let isClosed = false;
    this.clock.as(hubHost, () => {
      hub.close().then(
        () => {
          isClosed = true;
        },
        (error: unknown) => {
          this.tell(`close: ${String(error)}`);
          isClosed = true;
        },
      );
    });
    for (const volume of this.volumes) volume.replica = undefined;
    if (!this.pass(30_000, () => isClosed)) this.fail('the hub did not close within 30 s');
    this.#lastTurns();
    hubHost.isAlive = false;
  }

  /** Kills the hub's process, or its whole machine. */
  crashHub(isPowerCut: boolean, isReset: boolean): void {
    this.tell(`the hub ${isPowerCut ? 'loses power' : 'is killed'}`);
    this.#wasKilled = true;
    this.hubHost.isAlive = false;
    this.hub = undefined;
    this.net.hostDied(this.hubHost, isPowerCut ? 'silent' : isReset ? 'reset' : 'closed');
    for (const volume of this.volumes) {
      volume.replica = undefined;
      volume.image.processDied();
      if (isPowerCut) volume.image.disk.powerCut();
      else volume.image.disk.processDied();
    }
  }

  startAgent(): void {
    const host = new Host('agent');
    this.agentHost = host;
    this.#life += 1;
    this.tell(`the agent starts, life ${this.#life}`);
    this.clock.as(host, () => {
      const agent = new Agent({
        hubHost: 'sim',
        hubPort: HUB_PORT,
        vmName: 'vm',
        agentId: AGENT_ID,
        logger: silentLogger,
        queueBytes: this.options.queueBytes,
        shutdownTimeoutMs: 2000,
        dial: this.net.dialFrom(host),
        nowUs: () => Math.round(this.clock.wallMs() * 1000),
      });
      for (const volume of this.volumes) {
        volume.disk.owner = host;
        volume.truth = new VolumeTruth(volume.disk);
        volume.agents = undefined;
        volume.isFollowed = false;
        volume.waiting = 0;
        volume.failures = 0;
        volume.disk.faults = 0;
        volume.guest = agent.protect(volume.name, volume.disk);
      }
      this.agent = agent;
      agent.start();
    });
  }

  /** In order. */
  stopAgent(): void {
    const { agent, agentHost } = this;
    if (!agent || !agentHost.isAlive) return;
    this.tell('the agent is stopped');
    // Guests are gone before.
    if (!this.pass(30_000, () => this.volumes.every(({ waiting }) => waiting === 0))) {
      if (this.wrong === undefined) this.fail('guests wait for more than 30 s');
      return;
    }
    let isClosed = false;
    this.clock.as(agentHost, () => {
      void agent.close().then(() => {
        isClosed = true;
      });
    });
    if (!this.pass(30_000, () => isClosed)) this.fail('the agent did not close within 30 s');
    this.#lastTurns();
    this.#agentGone();
    for (const { disk } of this.volumes) disk.processDied();
  }

  /** Kills the agent's process, or its whole machine. */
  crashAgent(isPowerCut: boolean, isReset: boolean): void {
    this.tell(`the agent ${isPowerCut ? 'loses power' : 'is killed'}`);
    this.#wasKilled = true;
    this.#agentGone();
    this.net.hostDied(this.agentHost, isPowerCut ? 'silent' : isReset ? 'reset' : 'closed');
    for (const { disk } of this.volumes) {
      if (isPowerCut) disk.powerCut();
      else disk.processDied();
    }
  }

  /** While no hub runs, somebody puts an older copy, or anything, in place of an image. */
  replaceImage(volume: WorldVolume, tags: Int32Array): void {
    if (this.hubHost.isAlive) throw new Error('only while no hub runs');
    this.tell(`the image of ${volume.name} is replaced`);
    this.#hubEpoch = 0n;
    volume.isReplaced = true;
    volume.image.disk.replace(tags);
    volume.truth.forgetAcked(this.agent?.stats.sequence ?? 0);
  }

  /** A number that no sector held before. */
  nextTag(): number {
    this.#nextTag += 1;
    return this.#nextTag;
  }

  /** What a guest does: the request's answer may take as long as its disk, and no longer. */
  guest(volume: WorldVolume, kind: Mutation['kind'], first: number, sectors: number, fua: boolean): void {
    const { guest, disk } = volume;
    // A process that stands still takes nothing.
    if (!guest || this.agentHost.stalledUntilMs > this.clock.nowMs) return;
    const offset = first * SECTOR;
    const length = sectors * SECTOR;
    const data = kind === 'write' ? Buffer.allocUnsafe(length) : undefined;
    if (data) for (let at = 0; at < length; at += SECTOR) fillSector(data, at, this.nextTag());
    this.note(4, first * 1000 + sectors);
    if (this.#isTracing) this.tell(`guest ${volume.name} ${kind} ${first}+${sectors} tag ${this.#nextTag}`);
    const { truth } = volume;
    const isMine = (): boolean => volume.truth === truth;
    this.clock.as(this.agentHost, () => {
      const answered = (): void => {
        // The loan is over: whoever still looks at these bytes sees rubbish.
        data?.fill(0xdd);
      };
      const failed = (error: unknown): void => {
        if (!isMine()) return;
        volume.failures += 1;
        if (!String(error).includes('simulated')) this.fail(`a guest's request failed: ${String(error)}`);
      };
      let result: MaybePromise<void> | undefined;
      try {
        result = applyMutation(guest, mutation(kind, offset, length, data, fua));
      } catch (error) {
        failed(error);
      }
      if (!(result instanceof Promise)) return answered();
      if (disk.isIdle) this.fail('a disk that answered at once was made slow');
      volume.waiting += 1;
      result.catch(failed).finally(() => {
        answered();
        if (isMine()) volume.waiting -= 1;
      });
    });
    this.check();
  }

  /** Looks at every rule, now. */
  check(): void {
    if (this.wrong !== undefined) return;
    const isAgent = this.agentHost.isAlive;
    const isHub = this.hubHost.isAlive;
    for (const volume of this.volumes) {
      if (isHub) this.#see(volume);
      const wrong =
        contractBroken(volume) ??
        (isAgent ? guestDelayed(volume) : undefined) ??
        (isAgent ? silentDifference(volume, this.looks) : undefined) ??
        (isAgent && isHub ? notAPrefix(volume, this.looks) : undefined) ??
        ackedLost(volume, isAgent, isHub, this.looks);
      if (wrong !== undefined) this.fail(`${volume.name}: ${wrong}`);
    }
  }

  /** Everything is in step, and at rest. */
  get isWhole(): boolean {
    return this.volumes.every(
      ({ replica, agents, isFollowed, image }) =>
        isFollowed &&
        replica?.state === 'protected' &&
        !image.isAppending &&
        agents?.mode === 'on' &&
        agents.health.hubState === 'protected' &&
        agents.map.dirtyBytes === 0,
    );
  }

  /** How things stand, for whoever has to understand a failure. */
  describe(): string {
    const link = this.agentHost.isAlive ? this.agent?.status().link : undefined;
    const volumes = this.volumes.map(({ name, replica, agents }) => {
      const hubs = replica
        ? `${replica.state} received=${replica.receivedSequence} acked=${replica.ackedSequence} unread=${replica.engine.remainingBytes} error=${replica.lastError}`
        : 'none';
      const own = agents
        ? `${agents.mode} hub=${agents.health.hubState} acked=${agents.health.ackedSequence} dirty=${agents.map.dirtyBytes}`
        : 'none';
      return `${name}: agent ${own}; replica ${hubs}`;
    });
    return `at ${this.clock.nowMs.toFixed(1)} ms, life ${this.#life}, link ${link?.state} ${link?.lastError}; ${volumes.join(' | ')}`;
  }

  /** Ends both in order, at rest: the replicas are finished, and every buffer was given back. */
  finish(): void {
    const replicas = this.volumes.map(({ replica }) => replica);
    this.stopAgent();
    this.pass(5000, () => replicas.every((one) => one?.isFinished));
    for (const { name, replica, disk, image } of this.volumes) {
      if (!replica?.isFinished) this.fail(`${name} is not finished though its agent shut down in order`);
      if (disk.now.some((tag, i) => tag !== image.disk.durable[i]))
        this.fail(`${name}: the finished replica differs`);
    }
    this.stopHub();
    const { held } = this.#slabs;
    if (!this.#wasKilled && held > 0) this.fail(`${held} buffers were never given back`);
  }

  close(): void {
    this.#isClosing = true;
    this.agentHost.isAlive = false;
    this.hubHost.isAlive = false;
    for (const undo of this.#undo.reverse()) undo();
  }

  #agentGone(): void {
    this.looks.overflows += this.agent?.stats.overflows ?? 0;
    this.agentHost.isAlive = false;
    this.agent = undefined;
    for (const volume of this.volumes) {
      volume.guest = undefined;
      volume.agents = undefined;
      volume.waiting = 0;
    }
  }

  /** A process ends when nothing is left that it waits for. */
  #lastTurns(): void {
    this.pass(1000, () => this.volumes.every(({ disk }) => disk.isIdle));
    this.pass(5);
  }

  #own(host: Host, agents: ProtectedVolume): WorldVolume | undefined {
    if (host !== this.agentHost || !host.isAlive) return undefined;
    const volume = this.volumes.find(({ name }) => name === agents.name);
    if (volume) volume.agents = agents;
    return volume;
  }

  #attached(replica: Replica): void {
    const volume = this.volumes.find(({ name }) => name === replica.volumeName);
    if (!volume || this.clock.host !== this.hubHost) return;
    volume.replica = replica;
    volume.isFollowed = this.#isOfThisLife(replica);
    this.tell(`attached ${volume.name}, ${volume.isFollowed ? 'this' : 'an earlier'} life`);
  }

  #isOfThisLife(replica: Replica): boolean {
    const epoch = replica.link?.agent?.epoch;
    return epoch !== undefined && this.#epochs.get(epoch) === this.#life;
  }

  #queued(host: Host, stream: MirrorStream): void {
    if (host !== this.agentHost) return;
    const { bytes, limitBytes } = stream.queue;
    if (bytes > limitBytes + NEVER_REFUSED_BYTES)
      this.fail(`the queue holds ${bytes} of ${limitBytes} bytes`);
  }

  #see(volume: WorldVolume): void {
    const state = volume.replica?.state;
    if (!state || state === volume.seen) return;
    volume.seen = state;
    this.tell(`${volume.name} is ${state}`);
    this.note(5, state.length);
    if (state === 'protected') this.looks.protections += 1;
  }

  #uncaught(error: unknown): void {
    this.fail(`nobody caught ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }
}

function mutation(
  kind: Mutation['kind'],
  offset: number,
  length: number,
  data: Buffer | undefined,
  fua: boolean,
): Mutation {
  switch (kind) {
    case 'write':
      return { kind, offset, data: data!, fua };
    case 'trim':
      return { kind, offset, length, fua };
    case 'writeZeroes':
      return { kind, offset, length, fua, mayTrim: fua };
    case 'flush':
      return { kind };
    default:
      throw new Error(`no guest does ${String(kind)}`);
  }
}
