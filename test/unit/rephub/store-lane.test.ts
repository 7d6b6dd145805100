// The way to a store: batches in order, lent bytes kept while they are in use, and no range forgotten when it fails.
import { describe, expect, it } from 'vitest';
import { pinBytes, SlabPool } from '../../../src/base/buffer-pool.ts';
import { BlockError } from '../../../src/base/errors.ts';
import type { Mutation } from '../../../src/blockdev/mutation.ts';
import type { ReplicaStore } from '../../../src/rephub/replica-store.ts';
import { StoreLane } from '../../../src/rephub/store-lane.ts';
import { pattern } from '../../support/disk-model.ts';
import { settled } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const CHUNK = 4096;
const SIZE = 16 * CHUNK;

/** A store whose calls wait for the test. */
class StepStore implements ReplicaStore {
  readonly sizeBytes = SIZE;
  readonly bytes = Buffer.alloc(SIZE);
  readonly log: string[] = [];
  isSlow = true;
  readonly steps: Array<{ go: () => void; fail: () => void }> = [];

  append(batch: readonly Mutation[]): void | Promise<void> {
    this.log.push(`append ${batch.length}`);
    const apply = (): void => {
      for (const one of batch) if (one.kind === 'write') one.data.copy(this.bytes, one.offset);
    };
    if (this.isSlow) return this.#step('append', apply);
    apply();
  }

  commit(): Promise<void> {
    this.log.push('commit');
    return this.#step('commit', () => {});
  }

  read(offset: number, target: Buffer): void {
    this.bytes.copy(target, 0, offset);
  }

  async grow(): Promise<void> {
    throw new Error('a lane does not resize');
  }

  async close(): Promise<void> {
    this.log.push('close');
  }

  #step(what: string, run: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.steps.push({
        go: () => {
          run();
          resolve();
        },
        fail: () => reject(new BlockError('EIO', `${what} failed`)),
      });
    });
  }
}

function setUp() {
  const store = new StepStore();
  const log: string[] = [];
  const lane: StoreLane = new StoreLane(store, {
    sizeBytes: SIZE,
    chunkBytes: CHUNK,
    gatherMs: () => 0,
    events: {
      commitBegins: () => {
        log.push('begins');
        return true;
      },
      committed: () => log.push('committed'),
      failed: (error) => {
        log.push(`failed ${String(error)}`);
        lane.takeDoubtful((offset, length) => log.push(`unknown ${offset / CHUNK}+${length / CHUNK}`));
      },
    },
  });
  const write = (chunk: number, data = pattern(CHUNK, chunk + 1)): void => {
    lane.add({ kind: 'write', offset: chunk * CHUNK, data, fua: false }, chunk * CHUNK, data.length);
  };
  return { store, lane, log, write };
}

it('has no point whose last batch could not be stored: the failure says what there is', () => {
  const store = new StepStore();
  store.append = () => {
    throw new BlockError('EIO', 'append failed');
  };
  const earlier = { generation: 1, sequence: 1, timeMs: 1, isExact: false };
  const lane: StoreLane = new StoreLane(store, {
    ...{ sizeBytes: SIZE, chunkBytes: CHUNK, gatherMs: () => 0 },
    events: { commitBegins: () => true, committed: () => {}, failed: () => lane.guard(earlier) },
  });
  lane.add({ kind: 'trim', offset: 0, length: CHUNK, fua: false }, 0, CHUNK);
  lane.guard({ ...earlier, sequence: 2, isExact: true });
  expect([lane.isOpen, lane.point]).toEqual([false, earlier]);
});

describe('StoreLane', () => {
  it('answers at once when the store does, and gives it whole batches', () => {
    const { store, lane, write } = setUp();
    store.isSlow = false;
    write(0);
    write(1);
    expect(lane.isIdle).toBe(false);
    expect(lane.apply()).toBeUndefined();
    expect(lane.apply()).toBeUndefined();
    expect([store.log, lane.isIdle, lane.isDurable]).toEqual([['append 2'], true, false]);
  });

  it('keeps bytes of a pooled buffer while the store uses them, and gives them back then', async () => {
    const { store, lane, write } = setUp();
    const pool = new SlabPool({ poison: true });
    const slab = pool.acquire(CHUNK);
    const data = slab.bytes.subarray(0, CHUNK);
    pattern(CHUNK, 9).copy(data);
    write(3, data);
    const stored = lane.apply();
    // The connection that lent them has gone on.
    slab.release();
    expect(pool.liveBytes).toBeGreaterThan(0);
    store.steps[0]!.go();
    await stored;
    expect(store.bytes.subarray(3 * CHUNK, 4 * CHUNK)).toEqual(pattern(CHUNK, 9));
    expect(pool.liveBytes).toBe(0);
  });

  it('appends one batch at a time, in order', async () => {
    const { store, lane, write } = setUp();
    write(0);
    const first = lane.apply();
    write(1);
    write(2);
    const second = lane.apply();
    await settled();
    expect(store.log).toEqual(['append 1']);
    store.steps[0]!.go();
    await first;
    await settled();
    expect(store.log).toEqual(['append 1', 'append 2']);
    expect(lane.isIdle).toBe(false);
    store.steps[1]!.go();
    await second;
    expect(lane.isIdle).toBe(true);
  });

  it('commits between appends only, and calls durable only what was there when the commit began', async () => {
    const { store, lane, log, write } = setUp();
    write(0);
    const first = lane.apply();
    lane.requestCommit(true);
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(log).toEqual([]);
    store.steps[0]!.go();
    await first;
    await waitUntil(() => store.log.includes('commit'), { what: 'the commit', intervalMs: 1 });
    write(1);
    const second = lane.apply();
    store.steps[1]!.go();
    await settled();
    expect([log, lane.isDurable, lane.doubtfulBytes]).toEqual([['begins', 'committed'], false, CHUNK]);
    store.steps[2]!.go();
    await second;
    expect(lane.isDurable).toBe(false);
  });

  it('needs no sync when nothing is in doubt', async () => {
    const { store, lane, log } = setUp();
    lane.requestCommit();
    await waitUntil(() => log.length === 2, { what: 'the commit', intervalMs: 1 });
    expect([log, store.log]).toEqual([['begins', 'committed'], []]);
  });

  it('that fails in an append has everything in doubt: that batch, those behind it, and what was not committed', async () => {
    const { store, lane, log, write } = setUp();
    write(0);
    const first = lane.apply();
    store.steps[0]!.go();
    await first;
    write(4);
    const second = lane.apply();
    write(9);
    const third = lane.apply();
    store.steps[1]!.fail();
    await second;
    await third;
    expect(log).toEqual(['failed BlockError: append failed', 'unknown 0+1', 'unknown 4+1', 'unknown 9+1']);
    // What waited behind it went nowhere.
    expect(store.log).toEqual(['append 1', 'append 1', 'close']);
    expect([lane.isOpen, lane.isIdle]).toEqual([false, true]);
    write(5);
    expect(lane.apply()).toBeUndefined();
    await lane.close();
  });

  it('that fails in a commit has in doubt what the commit covered and what came after it began', async () => {
    const { store, lane, log, write } = setUp();
    store.isSlow = false;
    write(0);
    await lane.apply();
    lane.requestCommit();
    await waitUntil(() => store.log.includes('commit'), { what: 'the commit', intervalMs: 1 });
    write(1);
    write(2);
    await lane.apply();
    store.steps[0]!.fail();
    await settled();
    expect(log).toEqual(['begins', 'failed BlockError: commit failed', 'unknown 0+3']);
    await lane.close();
    expect(store.log.filter((line) => line === 'close')).toHaveLength(1);
  });
});

describe('pinBytes', () => {
  it('keeps a slab whatever the budget, and needs nothing for other memory', () => {
    const pool = new SlabPool({ maxPinnedBytes: 0 });
    const slab = pool.acquire(100);
    const release = pinBytes(slab.bytes.subarray(10, 20))!;
    slab.release();
    expect(slab.references).toBe(1);
    release();
    expect(slab.references).toBe(0);
    expect(pinBytes(Buffer.alloc(10))).toBeUndefined();
  });
});

describe('what the store is relied upon to hold', () => {
  it('is made durable by the next commit though nothing was written, and is in doubt when that fails', async () => {
    const { store, lane, log } = setUp();
    lane.doubt(CHUNK, 2 * CHUNK);
    expect(lane.isDurable).toBe(false);
    lane.requestCommit(true);
    await waitUntil(() => store.steps.length === 1, { what: 'the commit' });
    store.steps[0]!.fail();
    await waitUntil(() => !lane.isOpen, { what: 'the failure' });
    expect(log).toContain('unknown 1+2');
  });
});
