// The receive buffer against a plain model: what is filled in comes out in order, whole where it was asked for, and
// bytes that someone still uses never change.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Slab, SlabPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import {
  MAX_RECEIVE_BYTES,
  MIN_RECEIVE_BYTES,
  ReceiveBuffer,
} from '../../../src/transport/receive-buffer.ts';

function make(): { pool: SlabPool; received: ReceiveBuffer } {
  const pool = new SlabPool({ poison: true });
  return { pool, received: new ReceiveBuffer(pool) };
}

/** Puts the next bytes of an endless counting stream where the buffer wants them. @returns how many */
function fill(received: ReceiveBuffer, atMost: number, from: number): number {
  const region = received.region();
  const count = Math.min(region.length, atMost);
  for (let i = 0; i < count; i += 1) region[i] = (from + i) % 251;
  received.filled(count);
  return count;
}

/** Fills until `count` bytes lie there, as the buffer was told to want. */
function fillTo(received: ReceiveBuffer, count: number): void {
  received.want(count, false);
  while (received.available < count) {
    const region = received.region();
    const bytes = Math.min(region.length, count - received.available);
    region.fill(0xab, 0, bytes);
    received.filled(bytes);
  }
}

describe('the receive buffer', () => {
  it('starts small, uses the same memory again, and gives it back', () => {
    const { pool, received } = make();
    expect(pool.liveBytes).toBe(MIN_RECEIVE_BYTES);
    const first = received.region();
    expect(first.length).toBe(MIN_RECEIVE_BYTES);
    received.filled(1000);
    received.consume(1000);
    expect(received.region()).toBe(first);
    received.close();
    expect(pool.liveBytes).toBe(0);
  });

  it('grows while receives fill it, to a limit, and shrinks after a long quiet time', () => {
    const { pool, received } = make();
    for (let i = 0; i < 10; i += 1) {
      const { length } = received.region();
      received.filled(length);
      received.consume(length);
    }
    received.region();
    expect(pool.liveBytes).toBe(256 * KiB);
    for (let i = 0; i < 20_000; i += 1) {
      received.region();
      received.filled(28);
      received.consume(28);
    }
    received.region();
    expect(pool.liveBytes).toBe(MIN_RECEIVE_BYTES);
  });

  it('holds a large payload in one piece, received up to its end exactly', () => {
    const { pool, received } = make();
    received.region();
    received.filled(100);
    received.want(32 * MiB, false);
    expect(received.region().length).toBe(32 * MiB - 100);
    expect(pool.liveBytes).toBe(32 * MiB);
    received.filled(32 * MiB - 100);
    received.consume(32 * MiB);
    received.want(28, true);
    expect(received.region().length).toBe(28);
    expect(pool.liveBytes).toBeLessThanOrEqual(MAX_RECEIVE_BYTES);
    received.close();
    expect(pool.liveBytes).toBe(0);
  });

  it('leaves bytes alone that someone retained, and lets their slab go after both', () => {
    const { pool, received } = make();
    const kept: Array<{ slab: Slab; bytes: Buffer }> = [];
    for (let i = 0; i < 40; i += 1) {
      fillTo(received, 4 * KiB);
      received.bytes.fill(i, received.start, received.start + 4 * KiB);
      const { slab, start } = received;
      slab.retain();
      kept.push({ slab, bytes: slab.bytes.subarray(start, start + 4 * KiB) });
      received.consume(4 * KiB);
    }
    kept.forEach(({ bytes }, i) => {
      expect(bytes.every((byte) => byte === i)).toBe(true);
    });
    received.close();
    expect(pool.liveBytes).toBeGreaterThanOrEqual(160 * KiB);
    for (const { slab } of kept) slab.release();
    expect(pool.liveBytes).toBe(0);
  });

  it('throws everything away on demand', () => {
    const { received } = make();
    received.region();
    received.filled(5000);
    received.discard();
    expect(received.available).toBe(0);
    expect(received.region().length).toBe(MIN_RECEIVE_BYTES);
  });

  it('gives the stream back unchanged, however it is cut, wanted and retained', () => {
    const wants = fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 300 * KiB }));
    const step = fc.record({
      want: wants,
      exact: fc.boolean(),
      receive: fc.integer({ min: 1, max: 200 * KiB }),
      retain: fc.boolean(),
      release: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 25 }), (steps) => {
        const { pool, received } = make();
        const kept: Array<{ slab: Slab; start: number; end: number; at: number }> = [];
        let written = 0;
        let taken = 0;
        for (const { want, exact, receive, retain, release } of steps) {
          received.want(want, exact);
          while (received.available < want) written += fill(received, receive, written);
          const { slab, start } = received;
          for (let i = 0; i < want; i += 1) {
            if (slab.bytes[start + i] !== (taken + i) % 251) throw new Error(`wrong byte ${taken + i}`);
          }
          if (retain) {
            slab.retain();
            kept.push({ slab, start, end: start + want, at: taken });
          }
          received.consume(want);
          taken += want;
          if (release) kept.shift()?.slab.release();
        }
        for (const { slab, start, end, at } of kept) {
          for (let i = 0; i < end - start; i += 1) {
            if (slab.bytes[start + i] !== (at + i) % 251) throw new Error(`retained byte ${at + i} changed`);
          }
          slab.release();
        }
        received.close();
        expect(pool.liveBytes).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
