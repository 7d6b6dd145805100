// Gives memory that a burst of requests took back to the system once it is idle, a little at a time, so that a process
// that lives for months is as large as what it does now. Without native calls nothing is given back.
import type { SlabPool } from './buffer-pool.ts';
import { KiB, MiB } from './limits.ts';
import type { NativeCalls } from './native-calls.ts';

const INTERVAL_MS = 250;

/** Two seconds: bursts that come oftener keep their memory. */
const IDLE_INTERVALS = 8;

/** Stays for whatever comes next. */
const KEEP_BYTES = 8 * MiB;

/** A millisecond of the thread that serves guests, at most. */
const AT_ONCE_BYTES = 4 * MiB;

/** Of slabs that aren't kept at all: the collector frees smaller ones, whose calls would cost more than they gain. */
const MIN_DROPPED_BYTES = 256 * KiB;

/** @returns what ends it */
export function startTrimming(pool: SlabPool, native: NativeCalls | undefined): () => void {
  if (!native) return () => {};
  const discard = (bytes: Buffer): void => {
    native.discardPagesSync(bytes);
  };
  pool.whenDropped((bytes) => {
    if (bytes.length >= MIN_DROPPED_BYTES) void native.discardPages(bytes);
  });
  const options = { afterTrims: IDLE_INTERVALS, keepBytes: KEEP_BYTES, atOnceBytes: AT_ONCE_BYTES };
  const timer = setInterval(() => pool.trim(discard, options), INTERVAL_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    pool.whenDropped(() => {});
  };
}
