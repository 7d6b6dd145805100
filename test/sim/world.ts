// An agent, a hub and their network, all of it the product's own code on virtual time, with disks of a test. After every
// single event it looks at the rules of replication, from outside.
import type { Mutation } from '../../src/blockdev/mutation.ts';
import type { Agent } from '../../src/repagent/agent.ts';
import type { MirrorStream } from '../../src/repagent/mirror-stream.ts';
import type { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import type { Hub } from '../../src/rephub/hub.ts';
import type { Replica } from '../../src/rephub/replica.ts';
import type { Beginning } from '../../src/rephub/replica-memory.ts';
import type { SyncTuning } from '../../src/rephub/sync-engine.ts';
import type { Claim } from '../../src/repwire/messages.ts';
import { type AgentKeeping, AgentMachine } from './agent-machine.ts';
import type { Bug } from './bugs.ts';
import { catchErrors } from './catch-errors.ts';
import { Clock, type Host } from './clock.ts';
import { CrashRule } from './crash-rule.ts';
import { guestRequest } from './guest-request.ts';
import { HubMachine } from './hub-machine.ts';
import { MemoryWatch } from './memory-watch.ts';
import { Network } from './network.ts';
import { observe } from './observer.ts';
import { RecoverRule, type UndoKeeping } from './recover-rule.ts';
import {
  ackedLost,
  contractBroken,
  guestDelayed,
  newVolume,
  notAPrefix,
  settledEarly,
  silentDifference,
  type WorldVolume,
} from './rules.ts';
import { SECTOR } from './sectors.ts';
import { SimDisk } from './sim-disk.ts';
import { SimImage } from './sim-images.ts';
import { SlabCount } from './slab-count.ts';

/** Entries that a full queue doesn't refuse: lists of what is dirty. */
const NEVER_REFUSED_BYTES = 16 * 1024;

export interface WorldOptions {
  readonly random: () => number;
  /** Names and sizes of the volumes, bytes. */
  readonly sizes: Readonly<Record<string, number>>;
  readonly queueBytes: number;
  readonly sync: SyncTuning;
  readonly agentKeeps: AgentKeeping;
  /** Whether the hub keeps records. */
  readonly hubKeeps: boolean;
  /** How it keeps undo logs; undefined: it keeps none. */
  readonly undo?: UndoKeeping | undefined;
  /** For what must not change the life. */
  readonly seed: number;
  readonly bug?: Bug | undefined;
}

export class World {
  readonly options: WorldOptions;
  readonly clock: Clock;
  readonly net: Network;
  readonly volumes: WorldVolume[] = [];
  /** How often each rule was looked at. */
  readonly looks = {
    ...{ prefix: 0, acks: 0, silent: 0, crashes: 0, overflows: 0, protections: 0 },
    ...{ recovers: 0, refusals: 0, putBack: 0, exactPoints: 0, told: 0 },
  };
  /** The first thing that was wrong. */
  wrong: string | undefined;
  readonly agents: AgentMachine;
  readonly hubs: HubMachine;
  readonly memory: MemoryWatch;
  readonly #undo: Array<() => void> = [];
  readonly #slabs: SlabCount;
  readonly #crash = new CrashRule(this);
  readonly recovers: RecoverRule;
  #wasKilled = false;
  #trace = 0;
  #lines: string[] = [];
  #nextTag = 1;
  /** Of the present life of the hub. */
  #hubEpoch = 0n;
  /** Which life of the agent said HELLO with which epoch. */
  readonly #epochs = new Map<bigint, number>();
  #isClosing = false;
  /** Where somebody just chose. */
  readonly #choosing = new Set<WorldVolume>();
  readonly isTracing = process.env.SIM_TRACE === '1';

  constructor(options: WorldOptions) {
    this.options = options;
    this.clock = new Clock(options.random);
    this.net = new Network(this.clock, options.random);
    this.net.told = (host, bytes) => this.note(host === this.agentHost ? 1 : 2, bytes);
    this.net.greeted = (host, epoch) => {
      if (host === this.agentHost) this.#epochs.set(epoch, this.agents.life);
      if (host === this.hubHost) this.#hubEpoch = epoch;
    };
    for (const [name, sizeBytes] of Object.entries(options.sizes)) {
      const disk = new SimDisk(this.clock, options.random, sizeBytes, 0);
      disk.lostPages = 'forgotten';
      const image = new SimImage(new SimDisk(this.clock, options.random, sizeBytes, 2_000_000_000));
      this.volumes.push(newVolume(name, disk, image));
    }
    this.memory = new MemoryWatch(this);
    this.recovers = new RecoverRule(this, this.#crash, options.seed);
    this.agents = new AgentMachine(this, options.agentKeeps);
    this.hubs = new HubMachine(this, options.hubKeeps);
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
        attached: (replica, how, claim) => this.#attached(replica, how, claim),
        refused: (replica, reason) => {
          const own = this.#hubsOwn(replica);
          if (own) this.memory.refusal(own, reason);
        },
        told: (replica) => {
          const own = this.#hubsOwn(replica);
          if (own && this.#isOfThisLife(replica)) this.memory.told(own, replica);
        },
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
    if (!this.isTracing) return;
    this.#lines.push(`${this.clock.nowMs.toFixed(3).padStart(12)} ${what}`);
  }

  fail(what: string): void {
    this.wrong ??= what;
  }

  /** Lets virtual time pass. */
  pass(ms: number, isOver: () => boolean = () => false): boolean {
    return this.clock.runUntil(this.clock.nowMs + ms, () => this.wrong !== undefined || isOver());
  }

  get agent(): Agent | undefined {
    return this.agents.agent;
  }

  get agentHost(): Host {
    return this.agents.host;
  }

  get hub(): Hub | undefined {
    return this.hubs.hub;
  }

  get hubHost(): Host {
    return this.hubs.host;
  }

  startHub(): void {
    this.hubs.start();
  }

  stopHub(): void {
    this.hubs.stop();
    this.#lookBack();
  }

  crashHub(isPowerCut: boolean, isReset: boolean): void {
    this.#wasKilled = true;
    this.hubs.crash(isPowerCut, isReset);
    this.#lookBack();
  }

  startAgent(): void {
    this.agents.start();
  }

  stopAgent(): void {
    this.agents.stop();
  }

  crashAgent(isPowerCut: boolean, isReset: boolean): void {
    this.#wasKilled = true;
    this.agents.crash(isPowerCut, isReset);
  }

  /** A process could not start: it is tried again. */
  restartLater(restart: () => void, afterMs: number): void {
    this.clock.after(afterMs, null, () => {
      if (!this.#isClosing) restart();
    });
  }

  /** The image is not what the hub left there. */
  imageReplaced(volume: WorldVolume): void {
    this.#hubEpoch = 0n;
    volume.isReplaced = true;
    this.recovers.tampered(volume);
    volume.truth.forgetAcked(this.agent?.stats.sequence ?? 0);
  }

  /** An operator says that the agent's disk counts, wherever an agent was refused. */
  chooseAgents(): void {
    const { hub, hubHost } = this;
    if (!hub || !hubHost.isAlive) return;
    for (const volume of this.memory.refused) {
      if (this.#choosing.has(volume)) continue;
      this.#choosing.add(volume);
      this.clock.after(2000, null, () => this.#choosing.delete(volume));
      const takeBack = this.memory.asked(volume);
      this.clock.as(hubHost, () => {
        hub.resolve(volume.name, 'agent').then(
          () => this.memory.resolved(volume),
          (error: unknown) => {
            this.tell(String(error));
            // The hub was started again, and the agent has not come yet, or it was not refused this time. Of a record
            // that could not be written nobody knows whether it is the one that counts from now on.
            if (String(error).includes('no conflict to resolve')) takeBack();
          },
        );
      });
    }
  }

  /** A number that no sector held before. */
  nextTag(): number {
    this.#nextTag += 1;
    return this.#nextTag;
  }

  /** What a guest does: the request's answer may take as long as its disk, and no longer. */
  guest(volume: WorldVolume, kind: Mutation['kind'], first: number, sectors: number, fua: boolean): void {
    // A process that stands still takes nothing.
    if (!volume.guest || this.agentHost.stalledUntilMs > this.clock.nowMs) return;
    this.note(4, first * 1000 + sectors);
    guestRequest(this, volume, kind, first, sectors, fua);
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
        (isAgent ? guestDelayed(volume, this.agents.isSyncing(volume)) : undefined) ??
        (isAgent ? silentDifference(volume, this.looks) : undefined) ??
        (isAgent && isHub ? notAPrefix(volume, this.looks) : undefined) ??
        (isAgent && isHub ? settledEarly(volume) : undefined) ??
        ackedLost(volume, isAgent, isHub, this.looks) ??
        this.#crash.hidden(volume) ??
        this.recovers.sample(volume);
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
    return `at ${this.clock.nowMs.toFixed(1)} ms, life ${this.agents.life}, link ${link?.state} ${link?.lastError}; ${volumes.join(' | ')}`;
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

  /** A process ends when nothing is left that it waits for. */
  lastTurns(): void {
    this.pass(1000, () => this.volumes.every(({ disk }) => disk.isIdle));
    this.pass(5);
  }

  /** The hub is gone: what could be put back now? */
  #lookBack(): void {
    for (const volume of this.volumes) {
      if (this.wrong !== undefined) return;
      const wrong = this.recovers.look(volume, 'kill');
      if (wrong !== undefined) this.fail(`${volume.name}: ${wrong}`);
    }
  }

  #own(host: Host, agents: ProtectedVolume): WorldVolume | undefined {
    if (host !== this.agentHost || !host.isAlive) return undefined;
    const volume = this.volumes.find(({ name }) => name === agents.name);
    if (volume) volume.agents = agents;
    return volume;
  }

  #hubsOwn({ volumeName }: Replica): WorldVolume | undefined {
    if (this.clock.host !== this.hubHost) return undefined;
    return this.volumes.find(({ name }) => name === volumeName);
  }

  #attached(replica: Replica, how: Beginning | undefined, claim: Claim | undefined): void {
    const volume = this.#hubsOwn(replica);
    if (!volume) return;
    volume.replica = replica;
    volume.isFollowed = this.#isOfThisLife(replica);
    const life = this.#lifeOf(replica);
    const truth = life === undefined ? undefined : volume.truths[life - 1];
    if (truth) this.recovers.attached(volume, truth);
    this.tell(`attached ${volume.name}, ${volume.isFollowed ? 'this' : 'an earlier'} life`);
    this.memory.attached(volume, how, claim);
  }

  #lifeOf(replica: Replica): number | undefined {
    const epoch = replica.link?.agent?.epoch;
    return epoch === undefined ? undefined : this.#epochs.get(epoch);
  }

  #isOfThisLife(replica: Replica): boolean {
    return this.#lifeOf(replica) === this.agents.life;
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
    if (state !== 'protected') return;
    this.looks.protections += 1;
    this.recovers.settled(volume);
  }

  #uncaught(error: unknown): void {
    this.fail(`nobody caught ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }
}
