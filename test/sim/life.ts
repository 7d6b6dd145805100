// One random life of an agent, a hub and all that may befall them, from one seed: the same seed gives the same life,
// event by event.
import { setImmediate as turn } from 'node:timers/promises';
import { seededRandom } from '../../src/filter/random.ts';
import type { Bug } from './bugs.ts';
import { burst, narrow, reread } from './guest-storms.ts';
import { LifeOfMemory } from './life-of-memory.ts';
import { fullUndo, makeRoom, undoFault, undoOf } from './life-of-undo.ts';
import type { Beginnings } from './memory-watch.ts';
import type { WorldVolume } from './rules.ts';
import { replaceImage, swapImage } from './tampering.ts';
import { World } from './world.ts';

const KIB = 1024;
const QUEUES = [300, 3000, 20_000, 200_000, 4_000_000, 4_000_000];

/** How long it may take, with every fault over, until the replicas are the disks, ms of virtual time. */
const HEALING_MS = 300_000;

/** How long it may take then until no file says that anything is missing, ms. */
const RETIRING_MS = 20_000;

export interface LifeOptions {
  readonly seed: number;
  readonly steps?: number | undefined;
  /** Is to be found. */
  readonly bug?: Bug | undefined;
}

export interface LifeResult {
  readonly seed: number;
  /** What was wrong first; undefined: every rule was kept. */
  readonly wrong: string | undefined;
  /** The same whenever this seed is run. */
  readonly traceHash: number;
  readonly events: number;
  readonly virtualMs: number;
  readonly looks: World['looks'];
  /** How attachments began. */
  readonly begun: Beginnings;
  readonly lines: readonly string[];
}

/** Lives it, in one turn of the event loop. */
export async function live(options: LifeOptions): Promise<LifeResult> {
  // Not within the reaction of a promise: there the reactions of others could not run.
  await turn();
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        resolve(liveNow(options));
      } catch (error) {
        reject(error);
      }
    });
  });
}

function liveNow({ seed, steps = 50, bug }: LifeOptions): LifeResult {
  const random = seededRandom(seed);
  const int = (max: number): number => Math.floor(random() * max);
  const sizes: Record<string, number> = { a: (int(2) === 0 ? 96 : 200) * KIB + 512 * int(3) };
  if (int(3) === 0) sizes.b = 40 * KIB;
  const chunkBytes = [4096, 16_384, 65_536][int(3)]!;
  const leave = bug?.enter?.();
  const world = new World({
    random,
    sizes,
    queueBytes: QUEUES[int(QUEUES.length)]!,
    sync: { chunkBytes, maxReadBytes: chunkBytes * (1 + int(4)), maxReads: 1 + int(8) },
    agentKeeps: {
      granularityBytes: int(5) === 0 ? undefined : [4096, 16_384, 65_536][int(3)]!,
      exact: int(5) === 0,
    },
    hubKeeps: int(6) > 0,
    undo: undoOf(seed),
    seed,
    bug,
  });
  try {
    const life = new Life(world, random);
    life.begin();
    for (let step = 0; step < steps && world.wrong === undefined; step += 1) life.step();
    if (world.wrong === undefined) life.heal();
    if (world.wrong !== undefined) world.tell(world.wrong);
    return {
      seed,
      wrong: world.wrong && `SIM_SEED=${seed}: ${world.wrong}; ${world.describe()}`,
      traceHash: world.traceHash,
      events: world.clock.events,
      virtualMs: world.clock.nowMs,
      looks: world.looks,
      begun: world.memory.begun,
      lines: world.lines,
    };
  } finally {
    world.close();
    leave?.();
  }
}

export class Life {
  readonly world: World;
  readonly random: () => number;
  /** Copies of images, from which one may be restored. */
  readonly #backups = new Map<WorldVolume, Int32Array>();
  readonly memory: LifeOfMemory;
  /** Clocks may jump in this life. What they say is of little use then. */
  mayJump = false;

  constructor(world: World, random: () => number) {
    this.world = world;
    this.random = random;
    this.memory = new LifeOfMemory(this);
  }

  begin(): void {
    const { world } = this;
    this.mayJump = this.int(4) === 0;
    for (const volume of world.volumes) {
      if (this.int(2) === 0) this.slowDisk(volume);
      if (this.int(2) === 0) this.slowStore(volume);
    }
    world.startHub();
    world.startAgent();
    // Mostly from where it becomes interesting.
    if (this.int(4) > 0) world.pass(20_000, () => world.isWhole);
  }

  step(): void {
    const kind = this.pick(this.world.options.undo ? WEIGHTED_WITH_UNDO : WEIGHTED);
    this.world.tell(`step ${kind}`);
    STEP[kind](this);
    this.pause();
  }

  int(max: number): number {
    return Math.floor(this.random() * max);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.int(from.length)]!;
  }

  volume(): WorldVolume {
    return this.pick(this.world.volumes);
  }

  /** Mostly less than anything takes, sometimes long. */
  pause(): void {
    const scale = [0, 0.3, 0.3, 3, 3, 3, 30, 30, 300, 3000][this.int(10)]!;
    if (scale > 0) this.world.pass(this.random() * scale);
  }

  guests(count: number): void {
    const volume = this.volume();
    for (let left = count; left > 0 && this.world.wrong === undefined; left -= 1) this.#guest(volume);
  }

  /** The agent's disk can't write what guests believe to be written; whoever runs it starts it anew, sooner or later. */
  flushFault(): void {
    const { world } = this;
    const volume = this.volume();
    this.#guest(volume);
    volume.disk.failFlushes = 1;
    world.guest(volume, 'flush', 0, 0, false);
    this.pause();
    if (this.int(3) > 0) this.replaceAgent();
  }

  slowDisk(volume: WorldVolume): void {
    volume.disk.slowMs = [0, 0.3, 5, 60][this.int(4)]!;
    volume.disk.flushMs = [0, 1, 20][this.int(3)]!;
  }

  slowStore({ image }: WorldVolume): void {
    image.disk.slowMs = [0, 0.3, 10][this.int(3)]!;
    image.disk.flushMs = [0.1, 5, 400][this.int(3)]!;
  }

  /** The network between them. */
  weather(): void {
    const { weather } = this.world.net;
    weather.latencyMs = [0.05, 0.2, 3, 40, 200][this.int(5)]!;
    weather.jitterMs = weather.latencyMs * this.int(2);
    weather.bytesPerMs = [100_000, 10_000, 300][this.int(3)]!;
    weather.windowBytes = [2048, 65_536, 1_000_000][this.int(3)]!;
  }

  cut(): void {
    for (const connection of this.world.net.liveConnections) {
      const kind = this.int(6);
      if (kind === 0) connection.reset();
      else if (kind === 1) connection.resetEnd(connection.hubEnd);
      else if (kind === 2) connection.halfOpen();
      else if (kind === 3) connection.down.cutAfterBytes = this.int(500);
      else connection.up.cutAfterBytes = this.int(this.pick([400, 40_000]));
    }
  }

  crashHub(): void {
    const { world } = this;
    if (!world.hubHost.isAlive) return;
    world.crashHub(this.int(2) === 0, this.int(2) === 0);
    this.#whileHubIsGone();
    if (this.int(6) === 0) this.memory.restoreHub();
    world.startHub();
  }

  restartHub(): void {
    const { world } = this;
    if (!world.hub) return;
    world.stopHub();
    this.#whileHubIsGone();
    world.startHub();
  }

  replaceAgent(): void {
    const { world } = this;
    if (this.int(3) === 0) world.stopAgent();
    else world.crashAgent(this.int(2) === 0, this.int(2) === 0);
    this.pause();
    if (this.int(8) === 0) this.memory.writePast();
    if (this.int(6) === 0) this.memory.restoreAgent();
    world.startAgent();
  }

  /** Ends every fault, and waits until the replicas are what the disks are. */
  heal(): void {
    const { world } = this;
    world.tell('every fault ends');
    Object.assign(world.net.weather, {
      latencyMs: 0.2,
      jitterMs: 0.1,
      bytesPerMs: 50_000,
      windowBytes: 262_144,
    });
    world.net.heal();
    // What was about to be cut is not.
    for (const { up, down } of world.net.liveConnections) {
      up.cutAfterBytes = Number.POSITIVE_INFINITY;
      down.cutAfterBytes = Number.POSITIVE_INFINITY;
    }
    // Who stands still goes on, and who is cut off notices it.
    world.pass(16_000);
    for (const { disk, image } of world.volumes) {
      for (const one of [disk, image.disk]) {
        Object.assign(one, { failChanges: 0, failReads: 0, failFlushes: 0, isFull: false });
      }
      image.failOpens = 0;
      disk.slowMs = Math.min(disk.slowMs, 0.3);
    }
    this.memory.heal();
    makeRoom(world);
    if (world.volumes.some(({ disk }) => disk.isSuspect)) {
      world.stopAgent();
      world.startAgent();
    }
    const isWhole = (): boolean => {
      world.chooseAgents();
      return world.isWhole;
    };
    if (!world.pass(HEALING_MS, isWhole)) {
      if (world.wrong === undefined) world.fail(`the replicas are not the disks after ${HEALING_MS} ms`);
      return;
    }
    for (const { name, disk, image, failures } of world.volumes) {
      for (let i = 0; i < disk.now.length; i += 1) {
        const [now, visible, durable] = [disk.now[i], image.disk.now[i], image.disk.durable[i]];
        if (now === visible && now === durable) continue;
        world.fail(
          `${name}: at the end sector ${i} is ${now}, in the replica ${visible}, durable ${durable}`,
        );
        return;
      }
      if (failures > disk.faults)
        world.fail(`${name}: guests saw ${failures} failures, their disk had ${disk.faults}`);
    }
    if (!world.pass(RETIRING_MS, () => world.memory.isRetired) && world.wrong === undefined) {
      world.fail(`after ${RETIRING_MS} ms the map's file still has bits of what the hub has recorded`);
    }
    const queued = world.agent?.stats.queuedBytes ?? 0;
    if (queued !== 0) world.fail(`${queued} bytes stay in the queue`);
    if (world.wrong === undefined) world.finish();
  }

  backup(): void {
    const volume = this.volume();
    this.#backups.set(volume, volume.image.disk.now.slice());
  }

  #whileHubIsGone(): void {
    const { world } = this;
    this.guests(1 + this.int(5));
    this.pause();
    const volume = this.volume();
    const backup = this.#backups.get(volume);
    if (this.int(5) > 0) return;
    const tags = backup ?? volume.image.disk.now.map(() => world.nextTag());
    replaceImage(world, volume, tags, this.pick(['other', 'written']));
  }

  #guest(volume: WorldVolume): void {
    const sectors = volume.disk.now.length;
    // Most of what guests do overlaps.
    const first = this.int(3) === 0 ? this.int(sectors) : this.int(24);
    const most = this.int(12) === 0 ? sectors : 12;
    const length = 1 + this.int(Math.min(most, sectors - first));
    const kind = this.int(10);
    if (kind === 0) this.world.guest(volume, 'flush', 0, 0, false);
    else if (kind === 1) this.world.guest(volume, 'trim', first, length, false);
    else if (kind === 2) this.world.guest(volume, 'writeZeroes', first, length, this.int(2) === 0);
    else this.world.guest(volume, 'write', first, length, this.int(4) === 0);
    if (this.int(3) === 0) this.world.pass(this.random() * 0.5);
  }
}

const STEP = {
  guests: (life: Life) => life.guests(1 + life.int(6)),
  burst,
  narrow,
  reread,
  calm: (life: Life) => life.world.pass(5000, () => life.world.isWhole),
  cut: (life: Life) => life.cut(),
  partition: (life: Life) => {
    life.world.net.weather.isPartitioned = true;
    life.guests(1 + life.int(6));
    life.world.pass(life.pick([1, 300, 3000, 15_000]));
    life.world.net.heal();
  },
  refuse: (life: Life) => {
    life.world.net.weather.isRefused = life.int(2) === 0;
  },
  weather: (life: Life) => life.weather(),
  crashHub: (life: Life) => life.crashHub(),
  restartHub: (life: Life) => life.restartHub(),
  replaceAgent: (life: Life) => life.replaceAgent(),
  stall: (life: Life) => {
    // Long enough for the other side to give it up, or not.
    const host = life.pick([life.world.agentHost, life.world.hubHost, life.world.hubHost]);
    const untilMs = life.world.clock.nowMs + life.pick([5, 200, 4000, 14_000]);
    host.stalledUntilMs = Math.max(host.stalledUntilMs, untilMs);
    if (host === life.world.hubHost) life.guests(1 + life.int(8));
  },
  clockJump: (life: Life) => {
    if (!life.mayJump) return;
    life.world.memory.clocksJumped = true;
    const host = life.pick([life.world.agentHost, life.world.hubHost]);
    host.wallOffsetMs += life.pick([-3_600_000, -200, 200, 86_400_000]);
  },
  localFault: (life: Life) => {
    life.volume().disk.failChanges = 1 + life.int(3);
  },
  readFault: (life: Life) => {
    life.volume().disk.failReads = 1 + life.int(3);
  },
  storeFault: (life: Life) => {
    const { image } = life.volume();
    const kind = life.int(4);
    if (kind === 0) image.disk.failChanges = 1;
    else if (kind === 1) image.disk.failFlushes = 1;
    else if (kind === 2) image.failOpens = 1;
    else image.disk.failReads = 1;
  },
  flushFault: (life: Life) => life.flushFault(),
  swap: (life: Life) => {
    const volume = life.volume();
    volume.image.disk.failFlushes = 1;
    volume.image.failOpens = 3;
    life.guests(4);
    life.world.pass(2000, () => volume.replica?.state === 'failed');
    life.world.pass(5);
    swapImage(
      life.world,
      volume,
      volume.image.disk.now.map(() => life.world.nextTag()),
    );
  },
  fullDisk: (life: Life) => {
    const { disk } = life.volume();
    disk.isFull = true;
    life.guests(1 + life.int(6));
    life.world.pass(life.pick([1, 100, 3000]));
    disk.isFull = false;
  },
  fullStore: (life: Life) => {
    const { disk } = life.volume().image;
    disk.isFull = true;
    life.guests(1 + life.int(6));
    life.world.pass(life.pick([1, 100, 3000]));
    disk.isFull = false;
  },
  slowStore: (life: Life) => life.slowStore(life.volume()),
  slowDisk: (life: Life) => life.slowDisk(life.volume()),
  backup: (life: Life) => life.backup(),
  crashBoth: (life: Life) => life.memory.crashBoth(),
  copyHub: (life: Life) => life.memory.copyHub(),
  copyAgent: (life: Life) => life.memory.copyAgent(),
  mapFault: (life: Life) => life.memory.mapFault(),
  recordFault: (life: Life) => life.memory.recordFault(),
  operator: (life: Life) => life.world.chooseAgents(),
  undoFault,
  fullUndo,
} satisfies Record<string, (life: Life) => unknown>;

const WEIGHTS: Partial<Record<keyof typeof STEP, number>> = {
  guests: 40,
  burst: 4,
  narrow: 3,
  reread: 3,
  calm: 10,
  cut: 5,
  partition: 2,
  refuse: 2,
  weather: 4,
  crashHub: 2,
  restartHub: 1,
  replaceAgent: 2,
  stall: 2,
  clockJump: 1,
  localFault: 3,
  readFault: 1,
  storeFault: 3,
  flushFault: 1,
  swap: 1,
  fullDisk: 1,
  fullStore: 1,
  slowStore: 2,
  slowDisk: 2,
  backup: 1,
  crashBoth: 2,
  copyHub: 1,
  copyAgent: 1,
  mapFault: 1,
  recordFault: 2,
  operator: 3,
};
const WEIGHTED = weighted(WEIGHTS);
const WEIGHTED_WITH_UNDO = weighted({ ...WEIGHTS, undoFault: 3, fullUndo: 2 });

function weighted(weights: typeof WEIGHTS): Array<keyof typeof STEP> {
  return Object.entries(weights).flatMap(([kind, weight]) =>
    Array.from({ length: weight }, () => kind as keyof typeof STEP),
  );
}
