import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { KiB, MiB, TiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';

const PAGE = 64 * KiB;

describe('MemoryDevice', () => {
  it('answers every call at once', () => {
    const disk = new MemoryDevice({ sizeBytes: 1 * MiB });
    expect(disk.write(0, Buffer.alloc(10), true)).toBeUndefined();
    expect(disk.read(0, Buffer.alloc(10))).toBeUndefined();
    expect(disk.flush()).toBeUndefined();
    expect(disk.trim(0, 10, true)).toBeUndefined();
    expect(disk.writeZeroes(0, 10, true, false)).toBeUndefined();
    expect(disk.extents(0, 10)).toBeInstanceOf(Array);
  });

  it('takes memory for what is written, and gives it back for what is trimmed', () => {
    const disk = new MemoryDevice({ sizeBytes: 100 * TiB });
    expect(disk.allocatedBytes).toBe(0);
    disk.write(50 * TiB - 1, Buffer.alloc(2, 1), false);
    expect(disk.allocatedBytes).toBe(2 * PAGE);
    disk.trim(50 * TiB - PAGE, PAGE - 1, false);
    expect(disk.allocatedBytes).toBe(2 * PAGE);
    disk.trim(0, 100 * TiB, false);
    expect(disk.allocatedBytes).toBe(0);
  });

  it('frees the last page, which may be a short one', () => {
    const disk = new MemoryDevice({ sizeBytes: PAGE + 512 });
    disk.write(PAGE, Buffer.alloc(512, 1), false);
    disk.trim(PAGE, 512, false);
    expect(disk.allocatedBytes).toBe(0);
  });

  it('keeps zeroes that must stay allocated as such, without memory, until they are written over', () => {
    const disk = new MemoryDevice({ sizeBytes: 4 * PAGE });
    disk.writeZeroes(0, 2 * PAGE, false, false);
    expect(disk.allocatedBytes).toBe(0);
    expect(disk.extents(0, 4 * PAGE)).toEqual([
      { offset: 0, length: 2 * PAGE, hole: false, zero: true },
      { offset: 2 * PAGE, length: 2 * PAGE, hole: true, zero: true },
    ]);
    disk.write(10, Buffer.from('x'), false);
    expect(disk.allocatedBytes).toBe(PAGE);
    const other = Buffer.alloc(1, 9);
    disk.read(PAGE + 10, other);
    expect(other[0]).toBe(0);
  });

  it('tells the extents of a huge disk by its pages', () => {
    const disk = new MemoryDevice({ sizeBytes: 100 * TiB });
    disk.write(70 * TiB, Buffer.alloc(1, 1), false);
    disk.write(10 * TiB, Buffer.alloc(1, 1), false);
    expect(disk.extents(0, 100 * TiB).map((extent) => [extent.offset, extent.hole])).toEqual([
      [0, true],
      [10 * TiB, false],
      [10 * TiB + PAGE, true],
      [70 * TiB, false],
      [70 * TiB + PAGE, true],
    ]);
  });

  it('is full before the process is', () => {
    const disk = new MemoryDevice({ sizeBytes: 100 * TiB });
    expect(() => disk.writeZeroes(0, 100 * TiB, false, false)).toThrow(
      expect.objectContaining({ code: 'ENOSPC' }),
    );
  });

  it('refuses sizes that no disk has', () => {
    for (const sizeBytes of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      expect(() => new MemoryDevice({ sizeBytes })).toThrow(BlockError);
    }
  });
});
