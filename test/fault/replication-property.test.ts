// Random lives of an agent and a hub over a network that breaks: the rules of replication hold at every moment, and
// when the faults end the replica becomes the disk. A failure names its seed; REPLICATION_SEED=n runs that one again,
// REPLICATION_RUNS=n so many fresh ones.
import { afterAll, describe, expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import type { Mutation } from '../../src/blockdev/mutation.ts';
import { freshSeed, seededRandom } from '../../src/filter/random.ts';
import { pattern } from '../support/disk-model.ts';
import { World, type WorldVolume } from '../support/replication-world.ts';
import { testSeed } from '../support/test-seed.ts';

const KIB = 1024;
const STEPS = 160;
const QUEUES = [200, 3000, 20_000, 200_000, 4_000_000];

class Run {
  readonly world: World;
  readonly #random: () => number;

  constructor(world: World, random: () => number) {
    this.world = world;
    this.#random = random;
  }

  async step(): Promise<void> {
    const kind = this.#pick(WEIGHTED);
    await STEP[kind](this);
    this.world.check();
  }

  int(max: number): number {
    return Math.floor(this.#random() * max);
  }

  volume(): WorldVolume {
    return this.#pick(this.world.volumes);
  }

  async guests(): Promise<void> {
    const volume = this.volume();
    for (let left = 1 + this.int(6); left > 0; left -= 1) this.world.change(volume, this.#mutation(volume));
    if (this.int(3) === 0) await this.world.turns(this.int(4));
  }

  /** More than a turn of the event loop sends, so that answers to the hub overtake what the stream still has. */
  async burst(): Promise<void> {
    const volume = this.volume();
    const { sizeBytes } = volume.disk;
    const length = Math.min(sizeBytes, 96 * KIB);
    for (let left = 2 + this.int(12); left > 0; left -= 1) {
      // A change that fails is read by the hub, while the others are on their way.
      if (this.int(3) === 0) volume.disk.failNext = 1;
      const offset = 512 * this.int((sizeBytes - length) / 512 + 1);
      this.world.change(volume, {
        kind: 'write',
        offset,
        data: pattern(length, 1 + this.int(1e9)),
        fua: false,
      });
      if (this.int(3) === 0) await this.world.turns(1);
    }
  }

  /** Lets time pass, and looks at the rules meanwhile. */
  async wait(ms: number, until: () => boolean = () => false): Promise<void> {
    const endsAt = performance.now() + ms;
    while (performance.now() < endsAt && !until()) {
      this.world.check();
      await this.world.turns(1 + this.int(3));
    }
  }

  #mutation(volume: WorldVolume): Mutation {
    const sectors = volume.disk.sizeBytes / 512;
    // Most of what guests do overlaps.
    const at = this.int(3) === 0 ? this.int(sectors) : this.int(Math.min(sectors, 24));
    const most = this.int(12) === 0 ? 300 : 12;
    const length = 512 * (1 + this.int(Math.min(most, sectors - at)));
    const offset = at * 512;
    const kind = this.int(10);
    if (kind === 0) return { kind: 'flush' };
    if (kind === 1) return { kind: 'trim', offset, length, fua: false };
    if (kind === 2)
      return { kind: 'writeZeroes', offset, length, fua: this.int(2) === 0, mayTrim: this.int(2) === 0 };
    return { kind: 'write', offset, data: pattern(length, 1 + this.int(1e9)), fua: this.int(4) === 0 };
  }

  #pick<T>(from: readonly T[]): T {
    return from[this.int(from.length)]!;
  }
}

function slowStore(run: Run, volume: WorldVolume): void {
  const image = run.world.image(volume);
  image.isSlow = run.int(2) === 0;
  const waitMs = run.int(3) * 10;
  image.commitGate = waitMs === 0 ? undefined : () => new Promise((resolve) => setTimeout(resolve, waitMs));
}

const STEP = {
  guests: (run: Run) => run.guests(),
  turns: (run: Run) => run.world.turns(1 + run.int(12)),
  burst: (run: Run) => run.burst(),
  pause: (run: Run) => run.wait(run.int(12)),
  calm: async (run: Run) => {
    await run.world.guestsAnswered();
    await run.wait(60, () =>
      run.world.volumes.every((one) => run.world.hubStatus(one)?.state === 'protected'),
    );
  },
  cut: (run: Run) => run.world.proxy.cut(),
  cutAfter: (run: Run) => run.world.proxy.cutAfter(run.int(30_000), run.int(3) === 0 ? 'down' : 'up'),
  cutSoon: (run: Run) => run.world.proxy.cutAfter(run.int(400), run.int(2) === 0 ? 'down' : 'up'),
  stall: async (run: Run) => {
    run.world.proxy.stall();
    await run.guests();
    // No guest waits for a hub that doesn't move.
    await run.world.guestsAnswered();
  },
  goOn: (run: Run) => run.world.proxy.goOn(),
  delay: (run: Run) => {
    run.world.proxy.delayMs = run.int(2) * 3;
    run.world.proxy.pieceBytes = Number.POSITIVE_INFINITY;
  },
  narrow: async (run: Run) => {
    const { proxy } = run.world;
    proxy.delayMs = 1;
    proxy.pieceBytes = 16 * KIB;
    for (let left = 1 + run.int(3); left > 0; left -= 1) {
      await run.burst();
      await run.wait(run.int(40));
    }
    proxy.delayMs = 0;
  },
  goSilent: (run: Run) => run.world.proxy.goSilent(),
  refuse: (run: Run) => {
    run.world.proxy.refuses = run.int(2) === 0;
  },
  restartHub: async (run: Run) => {
    await run.world.stopHub();
    await run.guests();
    await run.world.guestsAnswered();
    run.world.check();
    await run.world.startHub();
  },
  crashHub: async (run: Run) => {
    await run.world.crashHub();
    await run.guests();
    run.world.check();
    await run.world.startHub();
  },
  replaceAgent: (run: Run) => run.world.replaceAgent(run.int(2) === 0),
  localFault: (run: Run) => {
    run.volume().disk.failNext = 1 + run.int(3);
  },
  readFault: (run: Run) => {
    run.volume().disk.failReads = 1 + run.int(3);
  },
  storeFault: (run: Run) => {
    const image = run.world.image(run.volume());
    const kind = run.int(3);
    if (kind === 0) image.appendFaults.push('ENOSPC');
    else if (kind === 1) image.commitFaults.push('EIO');
    else image.openFaults.push('EIO');
  },
  slowStore: (run: Run) => slowStore(run, run.volume()),
} satisfies Record<string, (run: Run) => Promise<void> | void>;

const WEIGHTS: Record<keyof typeof STEP, number> = {
  guests: 40,
  burst: 3,
  turns: 14,
  pause: 12,
  calm: 8,
  cut: 2,
  cutAfter: 2,
  cutSoon: 2,
  stall: 2,
  goOn: 5,
  delay: 2,
  narrow: 2,
  goSilent: 1,
  refuse: 2,
  restartHub: 1,
  crashHub: 1,
  replaceAgent: 1,
  localFault: 3,
  readFault: 1,
  storeFault: 3,
  slowStore: 3,
};
const WEIGHTED = Object.entries(WEIGHTS).flatMap(([kind, weight]) =>
  Array.from({ length: weight }, () => kind as keyof typeof STEP),
);

const looks = { prefix: 0, acks: 0, silent: 0, overflows: 0 };

async function live(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const int = (max: number): number => Math.floor(random() * max);
  const sizes: Record<string, number> = { a: (int(2) === 0 ? 192 : 640) * KIB + 512 * int(3) };
  if (int(3) === 0) sizes.b = 96 * KIB;
  const world = await World.create({
    sizes,
    jumble: int(3) === 0 ? null : seed,
    queueBytes: QUEUES[int(QUEUES.length)]!,
  });
  const run = new Run(world, random);
  for (const volume of world.volumes) if (int(2) === 0) slowStore(run, volume);
  try {
    for (let step = 0; step < STEPS; step += 1) await run.step();
    await world.heal();
    for (const key of ['prefix', 'acks', 'silent'] as const) looks[key] += world.looks[key];
    looks.overflows += world.agent.stats.overflows;
  } catch (error) {
    throw new Error(`REPLICATION_SEED=${seed}: ${(error as Error).message}`, { cause: error });
  } finally {
    await world.close();
  }
}

const given = process.env.REPLICATION_SEED;
const runs = Number(process.env.REPLICATION_RUNS ?? 0);
const fixed = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const seeds = given
  ? [Number(given)]
  : runs > 0
    ? Array.from({ length: runs }, freshSeed)
    : [...fixed, testSeed()];

describe('agent and hub over a network that breaks', () => {
  const liveBytes = sharedPool.liveBytes;

  it.each(seeds)('keep every rule, seed %i', (seed) => live(seed), 60_000);

  afterAll(() => {
    expect(sharedPool.liveBytes, 'bytes that were kept for the hub and never given back').toBe(liveBytes);
    if (given) return;
    // The rules were really looked at.
    expect(looks.prefix).toBeGreaterThan(seeds.length * 10);
    expect(looks.acks).toBeGreaterThan(seeds.length * 10);
    expect(looks.overflows).toBeGreaterThan(seeds.length);
  });
});
