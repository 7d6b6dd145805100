// How a resync gives way to guests: a disk of the test's that does one thing at a time, a guest, and a hub that always
// wants more, on a clock of the test's. The guest must hardly notice, and the resync must end all the same.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { GUEST_CHANGE, GUEST_READ, GuestLoad } from '../../../src/repagent/guest-load.ts';
import {
  HUNG_MS,
  MAX_REST_MS,
  type PaceTurn,
  ResyncPace,
  type ResyncRate,
} from '../../../src/repagent/resync-pace.ts';
import { TurnQueue } from '../../../src/repagent/turn-queue.ts';

const GUEST_MS = 4;
const READ_MS = 6;
const READ_BYTES = 256 * 1024;
/** A rate that bounds nothing here. */
const NO_BOUND = 1e12;

beforeEach(() => {
  vi.useFakeTimers({
    toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'clearImmediate', 'performance'],
  });
});
afterEach(() => {
  vi.useRealTimers();
});

/** One request after the other, in order of arrival, as the arm of a disk moves. */
class Arm {
  #freeAtMs = 0;

  use(takesMs: number): Promise<void> {
    const now = performance.now();
    this.#freeAtMs = Math.max(now, this.#freeAtMs) + takesMs;
    return new Promise((resolve) => setTimeout(resolve, this.#freeAtMs - now));
  }
}

class Scene {
  readonly load = new GuestLoad();
  readonly arm = new Arm();
  readonly pace: ResyncPace;
  readonly queue: TurnQueue<number>;
  readonly latenciesMs: number[] = [];
  reads = 0;
  isOver = false;
  #underway = 0;
  #most = 0;

  constructor(rate: ResyncRate) {
    this.pace = new ResyncPace(rate);
    this.pace.add(this.load);
    this.queue = this.hub(16, () => {
      this.reads += 1;
    });
  }

  /** A hub that asks for the next read when it has got one. */
  hub(atOnce: number, done: () => void): TurnQueue<number> {
    const queue = new TurnQueue<number>({
      atOnce,
      pace: this.pace,
      bytesOf: () => READ_BYTES,
      run: async (_, turn: PaceTurn) => {
        this.#underway += 1;
        this.#most = Math.max(this.#most, this.#underway);
        await turn.use(READ_BYTES, () => this.arm.use(READ_MS));
        turn.end();
        this.#underway -= 1;
        done();
        if (!this.isOver) queue.push(0);
      },
      onFault: (error) => {
        throw error;
      },
    });
    return queue;
  }

  /** The hub asks for as much as it may. */
  resync(): void {
    for (let i = 0; i < 8; i += 1) this.queue.push(0);
  }

  /** The most that were under way at one time since the last call. */
  most(): number {
    const most = this.#most;
    this.#most = this.#underway;
    return most;
  }

  /** A request each `everyMs`, for `forMs`; every third one changes something. */
  async guest(everyMs: number, forMs: number): Promise<void> {
    for (let n = 0; n * everyMs < forMs; n += 1) {
      const beganMs = performance.now();
      const result = this.arm.use(GUEST_MS);
      if (this.load.watcher) this.load.watch(n % 3 === 0 ? GUEST_CHANGE : GUEST_READ, result);
      void result.then(() => this.latenciesMs.push(performance.now() - beganMs));
      await vi.advanceTimersByTimeAsync(everyMs);
    }
  }

  /** Of the guest's requests since the last call. */
  latency(): { meanMs: number; p99Ms: number } {
    const sorted = this.latenciesMs.splice(0).sort((a, b) => a - b);
    const meanMs = sorted.reduce((sum, ms) => sum + ms, 0) / sorted.length;
    return { meanMs, p99Ms: sorted[Math.floor(0.99 * sorted.length)]! };
  }

  end(): void {
    this.isOver = true;
    this.queue.drop();
  }
}

describe('auto', () => {
  let scene: Scene;
  beforeEach(() => {
    scene = new Scene('auto');
  });
  afterEach(() => scene.end());

  it("keeps a guest's latency near its own, where a resync that takes no notice does not", async () => {
    await scene.guest(20, 5000);
    const alone = scene.latency();
    expect(alone.meanMs).toBe(GUEST_MS);
    scene.resync();
    await scene.guest(20, 30_000);
    const yielding = scene.latency();
    const readsYielding = scene.reads;
    const greedy = new Scene(NO_BOUND);
    greedy.resync();
    await greedy.guest(20, 5000);
    const crowded = greedy.latency();
    greedy.end();
    expect(crowded.meanMs).toBeGreaterThan(8 * alone.meanMs);
    expect(yielding.meanMs).toBeLessThanOrEqual(1.6 * alone.meanMs);
    expect(yielding.p99Ms).toBeLessThanOrEqual(4 * alone.meanMs);
    // And it goes on meanwhile, with a good part of what the guest leaves.
    expect(readsYielding / 30).toBeGreaterThan(20);
  });

  it('never stops, however the guest crowds the disk', async () => {
    scene.resync();
    // More than the disk can do: its requests wait for longer and longer.
    await scene.guest(3, 3000);
    const crowded = scene.reads;
    expect(crowded).toBeGreaterThan(3);
    const before = scene.reads;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(scene.reads).toBeGreaterThan(before + 1000);
  });

  it('reads on behind a disk that hangs', async () => {
    const hung = new TurnQueue<number>({
      atOnce: 16,
      pace: scene.pace,
      bytesOf: () => READ_BYTES,
      run: () => new Promise(() => {}),
      onFault: () => {},
    });
    for (let i = 0; i < 8; i += 1) hung.push(0);
    scene.resync();
    await scene.guest(20, 12 * HUNG_MS);
    expect(scene.reads).toBeGreaterThan(4);
    hung.drop();
  });

  it('takes all of the disk while there is no guest, and little again once there is one', async () => {
    scene.resync();
    await vi.advanceTimersByTimeAsync(200);
    scene.most();
    const before = scene.reads;
    await vi.advanceTimersByTimeAsync(6000);
    expect(scene.most()).toBe(8);
    expect(scene.reads - before).toBeGreaterThan(980);
    await scene.guest(20, 500);
    scene.most();
    await scene.guest(20, 300);
    expect(scene.most()).toBe(1);
    expect(scene.pace.status.yielding).toBe(true);
  });

  it('leaves guests the disk for themselves now and then, to know what they need', async () => {
    scene.resync();
    await scene.guest(20, 3000);
    let quietMs = 0;
    let reads = scene.reads;
    for (let ms = 0; ms < 4000; ms += 1) {
      if (ms % 20 === 0) scene.load.watch(GUEST_READ, scene.arm.use(GUEST_MS));
      const isQuiet = scene.pace.isQuiet;
      await vi.advanceTimersByTimeAsync(1);
      if (isQuiet) {
        quietMs += 1;
        expect(scene.reads).toBe(reads);
      }
      reads = scene.reads;
    }
    expect(quietMs).toBeGreaterThan(100);
    expect(quietMs).toBeLessThan(600);
  });

  it('does not watch guests for longer than it has to', async () => {
    expect(scene.load.watcher).toBeUndefined();
    scene.queue.push(0);
    await vi.advanceTimersByTimeAsync(READ_MS + 1);
    expect(scene.load.watcher).toBe(scene.pace);
    scene.end();
    await vi.advanceTimersByTimeAsync(2000);
    expect(scene.load.watcher).toBeUndefined();
  });

  it('leaves the thread to guests whom the disk answers at once', async () => {
    let busyMs = 0;
    // What a digest of a page cache's data costs.
    const busy = new TurnQueue<number>({
      atOnce: 4,
      pace: scene.pace,
      bytesOf: () => READ_BYTES,
      run: async (_, turn) => {
        turn.hold(() => vi.advanceTimersByTime(2));
        busyMs += 2;
        turn.end();
        await Promise.resolve();
        busy.push(0);
      },
      onFault: () => {},
    });
    for (let i = 0; i < 4; i += 1) busy.push(0);
    for (let ms = 0; ms < 500; ms += 1) {
      scene.load.watch(GUEST_READ, undefined);
      await vi.advanceTimersByTimeAsync(1);
    }
    busyMs = 0;
    const beganMs = performance.now();
    for (let ms = 0; ms < 2000; ms += 1) {
      scene.load.watch(GUEST_READ, undefined);
      await vi.advanceTimersByTimeAsync(1);
    }
    const share = busyMs / (performance.now() - beganMs);
    expect(share).toBeGreaterThan(0.1);
    expect(share).toBeLessThan(0.25);
    busy.drop();
  });

  it('has no timer once the hub is gone', async () => {
    scene.resync();
    await scene.guest(20, 500);
    scene.end();
    await vi.advanceTimersByTimeAsync(READ_MS);
    // But the end of the watch, for which no process waits.
    expect(vi.getTimerCount()).toBeLessThanOrEqual(1);
  });

  it('lets hubs and kinds of requests take turns', async () => {
    let others = 0;
    const other = scene.hub(4, () => {
      others += 1;
    });
    scene.resync();
    for (let i = 0; i < 4; i += 1) other.push(0);
    await scene.guest(10, 20_000);
    expect(scene.reads).toBeGreaterThan(20);
    expect(Math.abs(others - scene.reads)).toBeLessThan(0.2 * scene.reads);
    other.drop();
  });
});

describe('a rate', () => {
  it('is kept, and no guest changes it', async () => {
    const scene = new Scene(4 * 2 ** 20);
    scene.resync();
    await vi.advanceTimersByTimeAsync(10_000);
    const alone = scene.reads;
    expect(alone).toBeGreaterThan(150);
    expect(alone).toBeLessThanOrEqual(165);
    await scene.guest(20, 10_000);
    expect(scene.reads - alone).toBeGreaterThan(150);
    expect(scene.reads - alone).toBeLessThanOrEqual(165);
    expect(scene.load.watcher).toBeUndefined();
    expect(scene.pace.status).toMatchObject({ rate: 4 * 2 ** 20, yielding: false });
    expect(scene.pace.status.bytesPerSecond! / 2 ** 20).toBeCloseTo(4, 0);
    scene.end();
  });

  it('is of what is read: holes cost nothing of it', async () => {
    const pace = new ResyncPace(READ_BYTES);
    let holes = 0;
    const queue = new TurnQueue<number>({
      atOnce: 16,
      pace,
      bytesOf: () => 8 * READ_BYTES,
      run: async (_, turn) => {
        turn.end();
        holes += 1;
        await new Promise((resolve) => setTimeout(resolve, 1));
        queue.push(0);
      },
      onFault: () => {},
    });
    queue.push(0);
    await vi.advanceTimersByTimeAsync(1000);
    expect(holes).toBeGreaterThan(400);
    queue.drop();
  });
});

describe('the slowest', () => {
  it('rests after each read, for a bounded time', async () => {
    const scene = new Scene('auto');
    const begunMs: number[] = [];
    const slow = new TurnQueue<number>({
      atOnce: 4,
      pace: scene.pace,
      bytesOf: () => READ_BYTES,
      run: async (_, turn) => {
        begunMs.push(performance.now());
        await turn.use(READ_BYTES, () => scene.arm.use(60));
        slow.push(0);
      },
      onFault: () => {},
    });
    for (let i = 0; i < 4; i += 1) slow.push(0);
    await scene.guest(8, 30_000);
    const gaps = begunMs
      .slice(1)
      .map((at, index) => at - begunMs[index]!)
      .slice(-20);
    expect(Math.min(...gaps)).toBeGreaterThan(MAX_REST_MS);
    // The longest is a rest, the read itself among guests, and a quiet moment.
    expect(Math.max(...gaps)).toBeLessThan(1500);
    slow.drop();
    scene.end();
  });
});
