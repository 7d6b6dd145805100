// Who holds a slab, when it may be reused, and what retaining costs.
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  pinBytes,
  pinSlab,
  RETAIN_MIN_BYTES,
  retainBytes,
  type Slab,
  SlabPool,
} from '../../../src/base/buffer-pool.ts';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';

describe('SlabPool', () => {
  it('hands out powers of two from 64 KiB up', () => {
    const pool = new SlabPool();
    expect(
      [1, 64 * KiB, 64 * KiB + 1, MiB, MiB + 1].map((bytes) => pool.acquire(bytes).bytes.length),
    ).toEqual([64 * KiB, 64 * KiB, 128 * KiB, MiB, 2 * MiB]);
    expect(pool.liveBytes).toBe(64 * KiB * 2 + 128 * KiB + 3 * MiB);
  });

  it('reuses a slab only when the last reference is gone', () => {
    const pool = new SlabPool();
    const slab = pool.acquire(1);
    slab.retain();
    slab.release();
    expect([pool.liveBytes, pool.freeBytes]).toEqual([64 * KiB, 0]);
    expect(pool.acquire(1) === slab).toBe(false);
    slab.release();
    expect([pool.liveBytes, pool.freeBytes]).toEqual([64 * KiB, 64 * KiB]);
    expect(pool.acquire(1) === slab).toBe(true);
    expect(slab.references).toBe(1);
  });

  it('keeps no more than it may', () => {
    const pool = new SlabPool({ maxFreeBytes: 128 * KiB });
    const slabs = [1, 2, 3].map(() => pool.acquire(1));
    for (const slab of slabs) slab.release();
    expect([pool.liveBytes, pool.freeBytes]).toEqual([0, 128 * KiB]);
  });

  it('notices a reference that is given back twice or taken too late', () => {
    const pool = new SlabPool();
    const slab = pool.acquire(1);
    slab.release();
    expect(() => slab.release()).toThrow('already given back');
    expect(() => slab.retain()).toThrow('already given back');
    expect([pool.liveBytes, pool.freeBytes]).toEqual([0, 64 * KiB]);
  });

  it('overwrites what comes back when asked to', () => {
    const pool = new SlabPool({ poison: true });
    const slab = pool.acquire(1);
    slab.bytes.fill(1);
    slab.release();
    expect(slab.bytes.every((byte) => byte === 0xdd)).toBe(true);
  });

  describe('trimmed', () => {
    const options = { afterTrims: 2, keepBytes: 0, atOnceBytes: GiB };
    let discarded: Buffer[];
    const discard = (bytes: Buffer): void => void discarded.push(bytes);
    beforeEach(() => {
      discarded = [];
    });

    it('gives up what lay idle for so many trims, the longest idle first, and reuses it all the same', () => {
      const pool = new SlabPool();
      const [old, young] = [pool.acquire(1), pool.acquire(1)];
      old.release();
      pool.trim(discard, options);
      young.release();
      pool.trim(discard, options);
      expect([discarded.length, discarded[0] === old.bytes]).toEqual([1, true]);
      expect([pool.freeBytes, pool.idleBytes]).toEqual([128 * KiB, 64 * KiB]);
      pool.trim(discard, options);
      expect([discarded.length, discarded[1] === young.bytes]).toEqual([2, true]);
      pool.trim(discard, options);
      expect(discarded.length).toBe(2);
      expect(pool.acquire(1) === young).toBe(true);
      expect(pool.acquire(1) === old).toBe(true);
      expect([pool.freeBytes, pool.idleBytes]).toEqual([0, 0]);
      old.release();
      expect([pool.freeBytes, pool.idleBytes]).toEqual([64 * KiB, 64 * KiB]);
    });

    it('leaves alone what is used now and then', () => {
      const pool = new SlabPool();
      pool.acquire(1).release();
      for (let i = 0; i < 20; i += 1) {
        pool.trim(discard, options);
        pool.acquire(1).release();
      }
      expect(discarded.length).toBe(0);
    });

    it('keeps what it was told to, and gives up a bounded amount at once', () => {
      const pool = new SlabPool();
      for (const slab of [1, 2, 3, 4, 5].map(() => pool.acquire(MiB))) slab.release();
      const counts = [1, 2, 3, 4, 5, 6].map(() => {
        pool.trim(discard, { afterTrims: 2, keepBytes: 2 * MiB, atOnceBytes: 2 * MiB });
        return discarded.length;
      });
      expect(counts).toEqual([0, 2, 3, 3, 3, 3]);
      expect(pool.idleBytes).toBe(2 * MiB);
    });

    it('tells of what it does not keep at all', () => {
      const pool = new SlabPool({ maxFreeBytes: MiB });
      pool.whenDropped(discard);
      const [first, second] = [pool.acquire(MiB), pool.acquire(MiB)];
      first.release();
      expect(discarded.length).toBe(0);
      second.release();
      expect([discarded.length, discarded[0] === second.bytes]).toEqual([1, true]);
      expect(pool.acquire(1) === second).toBe(false);
    });
  });

  it('counts every byte, whatever is taken and given in whichever order', () => {
    const step = fc.oneof(
      fc.integer({ min: 1, max: 300 * KiB }).map((bytes) => ({ op: 'acquire' as const, bytes })),
      fc.nat().map((pick) => ({ op: 'retain' as const, pick })),
      fc.nat().map((pick) => ({ op: 'release' as const, pick })),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const pool = new SlabPool({ maxFreeBytes: MiB });
        const held: Slab[] = [];
        for (const each of steps) {
          if (each.op === 'acquire') {
            const slab = pool.acquire(each.bytes);
            // A slab that someone still holds must never be handed out again.
            expect(held.includes(slab)).toBe(false);
            held.push(slab);
          } else if (held.length > 0) {
            const at = each.pick % held.length;
            const slab = held[at]!;
            if (each.op === 'retain') {
              slab.retain();
              held.push(slab);
            } else {
              held.splice(at, 1);
              slab.release();
            }
          }
          const live = [...new Set(held)].reduce((sum, slab) => sum + slab.bytes.length, 0);
          expect(pool.liveBytes).toBe(live);
          expect(pool.freeBytes).toBeLessThanOrEqual(MiB);
        }
      }),
    );
  });
});

describe('retainBytes', () => {
  it('pins the slab that the bytes lie in, uncopied', () => {
    const pool = new SlabPool();
    const slab = pool.acquire(1);
    const data = slab.bytes.subarray(100, 100 + RETAIN_MIN_BYTES);
    const kept = retainBytes(data);
    expect(kept.bytes.buffer).toBe(slab.bytes.buffer);
    expect(kept.bytes.byteOffset).toBe(data.byteOffset);
    slab.release();
    expect(pool.liveBytes).toBe(64 * KiB);
    kept.release();
    expect(pool.liveBytes).toBe(0);
    expect(() => kept.release()).toThrow('released twice');
    expect(pool.liveBytes).toBe(0);
  });

  it('copies what is small, and what lies in no slab', () => {
    const pool = new SlabPool();
    const slab = pool.acquire(1);
    for (const data of [slab.bytes.subarray(0, RETAIN_MIN_BYTES - 1), Buffer.alloc(8 * KiB, 3)]) {
      data.fill(3);
      const kept = retainBytes(data);
      data.fill(4);
      expect(kept.bytes.every((byte) => byte === 3)).toBe(true);
      kept.release();
    }
    expect(slab.references).toBe(1);
  });

  it('copies when too much is pinned already', () => {
    const pool = new SlabPool({ maxPinnedBytes: 64 * KiB });
    const slab = pool.acquire(1);
    const data = slab.bytes.subarray(0, 4 * KiB);
    const first = retainBytes(data);
    expect(first.bytes.buffer).toBe(slab.bytes.buffer);
    const more = pool.acquire(1);
    expect(retainBytes(data).bytes.buffer).not.toBe(slab.bytes.buffer);
    expect(pinSlab(data)).toBeUndefined();
    more.release();
    expect(pinSlab(data) === slab).toBe(true);
    expect(slab.references).toBe(3);
  });
});

describe('pinBytes', () => {
  it('pins whatever the size and the budget, and leaves other bytes alone', () => {
    const pool = new SlabPool({ maxPinnedBytes: 0 });
    const slab = pool.acquire(1);
    const unpin = pinBytes(slab.bytes.subarray(0, 1));
    expect(slab.references).toBe(2);
    unpin?.();
    expect(slab.references).toBe(1);
    expect(pinBytes(Buffer.alloc(1))).toBeUndefined();
  });
});
