// The machine of a simulated agent: its disks, what it keeps in its state directory, and the process that comes and goes.
import { createHash } from 'node:crypto';
import { silentLogger } from '../../src/base/log.ts';
import { Agent } from '../../src/repagent/agent.ts';
import { loadAgentId } from '../../src/repagent/agent-id.ts';
import { DirtyMaps } from '../../src/repagent/dirty-maps.ts';
import type { ImageMark } from '../../src/repagent/sidecar-finding.ts';
import { Host } from './clock.ts';
import { HUB_PORT } from './network.ts';
import type { WorldVolume } from './rules.ts';
import type { SimDisk } from './sim-disk.ts';
import { SimFiles } from './sim-files.ts';
import { SimMapFile } from './sim-map-file.ts';
import { VolumeTruth } from './truth.ts';
import type { World } from './world.ts';

const STATE_DIR = '/state';

/** An agent that keeps nothing is still the same one. */
const AGENT_ID = hashOf('simulated agent');

/** After a start that failed the next one follows, ms. */
const RESTART_MS = 500;

export interface AgentKeeping {
  /** Undefined: nothing outlives the process. */
  readonly granularityBytes: number | undefined;
  readonly exact: boolean;
}

export class AgentMachine {
  readonly keeping: AgentKeeping;
  readonly files: SimFiles;
  readonly maps = new Map<string, SimMapFile>();
  host = new Host('agent');
  agent: Agent | undefined;
  /** The process that is there now, counted. */
  life = 0;
  /** Starts of the machine. */
  boot = 1;
  /** Starts and ends of the process: a start that was put off looks whether it is still wanted. */
  #turns = 0;
  #agentId: Buffer | undefined;
  #agentIdVersion = -1;
  readonly #world: World;

  constructor(world: World, keeping: AgentKeeping) {
    this.#world = world;
    this.keeping = keeping;
    const { clock, options } = world;
    this.files = new SimFiles(clock, options.random);
    for (const name of Object.keys(options.sizes)) this.maps.set(name, new SimMapFile(clock, options.random));
  }

  get isKeeping(): boolean {
    return this.keeping.granularityBytes !== undefined;
  }

  /** What a start of the machine is told apart by. */
  bootId(boot = this.boot): Buffer {
    return hashOf(`boot ${this.#world.options.bug?.sameBoot ? 1 : boot}`);
  }

  /** Of the files that are there: undefined before there is one. */
  get agentId(): Buffer | undefined {
    if (!this.isKeeping) return AGENT_ID;
    const { version } = this.files;
    if (version !== this.#agentIdVersion) {
      this.#agentIdVersion = version;
      const text = this.files.peek(`${STATE_DIR}/agent-id`);
      this.#agentId = text === undefined ? undefined : Buffer.from(text.trim(), 'hex');
    }
    return this.#agentId;
  }

  /** Whether guests may wait for a map: for its bits, which is what `exact` asks for, or else once after the start. */
  isSyncing({ name }: WorldVolume): boolean {
    const map = this.maps.get(name)!;
    return map.syncing > 0 && (this.keeping.exact || !map.hasSynced);
  }

  start(): void {
    const host = new Host('agent');
    host.wallOffsetMs = this.host.wallOffsetMs;
    this.host = host;
    this.life += 1;
    this.#turns += 1;
    const turn = this.#turns;
    const world = this.#world;
    world.tell(`the agent starts, life ${this.life}`);
    for (const volume of world.volumes) {
      volume.disk.owner = host;
      volume.truth = new VolumeTruth(volume.disk);
      volume.truths.push(volume.truth);
      volume.agents = undefined;
      volume.isFollowed = false;
      volume.waiting = 0;
      volume.failures = 0;
      volume.disk.faults = 0;
    }
    world.clock.as(host, () => {
      if (!this.isKeeping) return this.#begin(AGENT_ID);
      loadAgentId(STATE_DIR, this.files)
        .then((id) => this.#begin(id))
        .catch((error: unknown) => {
          world.tell(`the agent did not start: ${String(error)}`);
          this.#gone();
          world.restartLater(() => {
            if (turn === this.#turns) this.start();
          }, RESTART_MS);
        });
    });
  }

  /** In order. */
  stop(): void {
    const world = this.#world;
    this.#turns += 1;
    const { agent, host } = this;
    if (!host.isAlive) return;
    // It has not come to listen to anybody.
    if (!agent) {
      this.crash(false, false);
      return;
    }
    world.tell('the agent is stopped');
    // Guests are gone before.
    if (!world.pass(30_000, () => world.volumes.every(({ waiting }) => waiting === 0))) {
      if (world.wrong === undefined) world.fail('guests wait for more than 30 s');
      return;
    }
    let isClosed = false;
    world.clock.as(host, () => {
      const close = async (): Promise<void> => {
        await agent.close();
        for (const { guest } of world.volumes) await guest?.close().catch(() => undefined);
      };
      void close().then(() => {
        isClosed = true;
      });
    });
    if (!world.pass(30_000, () => isClosed)) world.fail('the agent did not close within 30 s');
    world.lastTurns();
    this.#gone();
    for (const { disk } of world.volumes) disk.processDied();
  }

  /** Kills the process, or the whole machine. */
  crash(isPowerCut: boolean, isReset: boolean): void {
    const world = this.#world;
    world.tell(`the agent ${isPowerCut ? 'loses power' : 'is killed'}`);
    const { host } = this;
    this.#turns += 1;
    this.#gone();
    world.net.hostDied(host, isPowerCut ? 'silent' : isReset ? 'reset' : 'closed');
    for (const { disk } of world.volumes) {
      if (isPowerCut) disk.powerCut();
      else disk.processDied();
    }
    if (!isPowerCut) return;
    this.rebooted();
    this.files.powerCut();
    for (const map of this.maps.values()) map.powerCut();
  }

  /** The machine starts again. */
  rebooted(): void {
    this.boot += 1;
    for (const volume of this.#world.volumes) this.#world.memory.excuse(volume, 'another boot');
  }

  /** As `imageMark` would tell it. */
  imageMark({ identity, changedAtMs }: SimDisk): ImageMark {
    return { mark: hashOf(`${identity} ${changedAtMs}`), changedAtMs };
  }

  #begin(agentId: Buffer): void {
    const world = this.#world;
    const { clock, net, options } = world;
    const { host } = this;
    const { granularityBytes, exact } = this.keeping;
    const agent = new Agent({
      hubHost: 'sim',
      hubPort: HUB_PORT,
      vmName: 'vm',
      agentId,
      state: this.isKeeping
        ? new DirtyMaps({
            agentId,
            bootId: this.bootId(),
            open: (name) => this.maps.get(name)!.open(),
            granularityBytes,
            exact,
            logger: silentLogger,
          })
        : undefined,
      logger: silentLogger,
      queueBytes: options.queueBytes,
      shutdownTimeoutMs: 2000,
      dial: net.dialFrom(host),
      nowUs: () => Math.round(clock.wallMs() * 1000),
    });
    for (const volume of world.volumes) {
      volume.guest = agent.protect(volume.name, volume.disk, () => this.imageMark(volume.disk));
    }
    this.agent = agent;
    agent.start();
  }

  #gone(): void {
    const world = this.#world;
    world.looks.overflows += this.agent?.stats.overflows ?? 0;
    this.host.isAlive = false;
    this.agent = undefined;
    for (const volume of world.volumes) {
      volume.guest = undefined;
      volume.agents = undefined;
      volume.waiting = 0;
    }
  }
}

function hashOf(text: string): Buffer {
  return createHash('sha256').update(text).digest().subarray(0, 16);
}
