// When a process gives idle memory back, as it is set for a real one.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { SlabPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import type { NativeCalls } from '../../../src/base/native-calls.ts';
import { startTrimming } from '../../../src/base/slab-trim.ts';

let discardedBytes: number;
let droppedBytes: number;
const native = {
  discardPagesSync: (bytes: Buffer) => {
    discardedBytes += bytes.length;
  },
  discardPages: (bytes: Buffer) => {
    droppedBytes += bytes.length;
    return Promise.resolve(undefined);
  },
} as unknown as NativeCalls;

beforeEach(() => {
  vi.useFakeTimers();
  discardedBytes = 0;
  droppedBytes = 0;
});
afterEach(() => vi.useRealTimers());

it('gives all but 8 MiB back once it was idle for two seconds, 16 MiB a second', () => {
  const pool = new SlabPool();
  const stop = startTrimming(pool, native);
  const slabs = Array.from({ length: 40 }, () => pool.acquire(MiB));
  vi.advanceTimersByTime(10_000);
  for (const slab of slabs) slab.release();
  vi.advanceTimersByTime(1_900);
  expect(discardedBytes).toBe(0);
  vi.advanceTimersByTime(1_000);
  expect(discardedBytes).toBe(16 * MiB);
  vi.advanceTimersByTime(10_000);
  expect([discardedBytes, pool.idleBytes, pool.freeBytes]).toEqual([32 * MiB, 8 * MiB, 40 * MiB]);
  stop();
  expect(vi.getTimerCount()).toBe(0);
});

it('gives back at once what is not kept, unless it is small', () => {
  const pool = new SlabPool({ maxFreeBytes: 0 });
  const stop = startTrimming(pool, native);
  pool.acquire(MiB).release();
  pool.acquire(64 * KiB).release();
  expect(droppedBytes).toBe(MiB);
  stop();
  pool.acquire(MiB).release();
  expect(droppedBytes).toBe(MiB);
});

it('does nothing where there are no native calls', () => {
  const stop = startTrimming(new SlabPool(), undefined);
  expect(vi.getTimerCount()).toBe(0);
  stop();
});
