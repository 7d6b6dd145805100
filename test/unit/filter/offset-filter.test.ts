import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { GiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { filtered } from '../../support/filter-chain.ts';
import {
  HeldDevice,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
  TEST_LIMITS,
} from '../../support/test-devices.ts';

it('moves every call by its offset', async () => {
  const spy = new RecorderDevice(new SparseDevice(4 * MiB));
  const disk = await filtered(spy, 'offset,offset=1M,size=2M');
  expect(disk.sizeBytes).toBe(2 * MiB);
  expect(disk.limits).toEqual(TEST_LIMITS);
  await disk.write(0, Buffer.from('a'), true);
  await disk.read(1, Buffer.alloc(2));
  await disk.trim(512, 1024, true);
  await disk.writeZeroes(0, 2 * MiB, false, true);
  await disk.cache(3, 4);
  await disk.extents(5, 6);
  await disk.flush();
  expect(spy.lines()).toEqual([
    `write ${MiB}+1 fua`,
    `read ${MiB + 1}+2`,
    `trim ${MiB + 512}+1024 fua`,
    `writeZeroes ${MiB}+${2 * MiB} mayTrim`,
    `cache ${MiB + 3}+4`,
    `extents ${MiB + 5}+6`,
    'flush',
  ]);
});

it('tells extents by the window’s own offsets, at once and later', async () => {
  const bottom = new SparseDevice(4 * MiB);
  bottom.bytes.write(MiB + 4096, Buffer.from([1]));
  const expected = [
    { offset: 0, length: 4096, hole: true, zero: true },
    { offset: 4096, length: 4096, hole: false, zero: false },
    { offset: 8192, length: 100, hole: true, zero: true },
  ];
  expect((await filtered(bottom, 'offset,offset=1M')).extents(0, 8292)).toEqual(expected);
  const held = new HeldDevice(bottom);
  const answer = (await filtered(held, 'offset,offset=1M')).extents(0, 8292);
  await held.releaseAll();
  expect(await answer).toEqual(expected);
});

describe('the window', () => {
  it('reaches to the end of the disk unless told otherwise', async () => {
    const disk = await filtered(new PatternDevice(4 * MiB), 'offset,offset=1M');
    expect(disk.sizeBytes).toBe(3 * MiB);
    const target = Buffer.alloc(512);
    await disk.read(3 * MiB - 512, target);
    expect(target).toEqual(patternBytes(4 * MiB - 512, 512));
    expect(() => disk.read(3 * MiB - 511, target)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('may begin at 0 and only cut the end off', async () => {
    const disk = await filtered(new PatternDevice(4 * MiB), 'offset,size=1M');
    expect(disk.sizeBytes).toBe(MiB);
    expect(() => disk.write(MiB, Buffer.alloc(1), false)).toThrow(
      expect.objectContaining({ code: 'ENOSPC' }),
    );
  });

  it('may be the whole disk, or its last sector', async () => {
    expect((await filtered(new PatternDevice(MiB), 'offset,offset=0,size=1M')).sizeBytes).toBe(MiB);
    expect((await filtered(new PatternDevice(MiB), `offset,offset=${MiB - 512}`)).sizeBytes).toBe(512);
  });

  it('may lie in a window', async () => {
    const bottom = new PatternDevice(8 * GiB);
    const disk = await filtered(
      bottom,
      'offset,offset=512,size=1K',
      'offset,offset=3G',
      'offset,offset=2G,size=4G',
    );
    const target = Buffer.alloc(1024);
    await disk.read(0, target);
    expect(target).toEqual(patternBytes(5 * GiB + 512, 1024));
  });

  for (const [spec, message] of [
    ['offset,offset=1M', 'offset 1048576 is not inside the disk, which has 1048576 bytes'],
    ['offset,offset=2M', 'is not inside the disk'],
    ['offset,offset=4096T', 'is not inside the disk'],
    ['offset,offset=512K,size=1M', 'a window of 1048576 bytes at 524288 goes past the end'],
    ['offset,offset=512K,size=1M', 'at most 524288 are allowed'],
    ['offset,size=2M', 'goes past the end of the disk, which has 1048576 bytes; at most 1048576 are allowed'],
    ['offset,offset=1', '1 is not a multiple of 512 bytes'],
    ['offset,size=100', '100 is not a multiple of 512 bytes'],
    ['offset,size=0', 'out of range; allowed is at least 512 B'],
    ['offset,offset=-512', '"-512" is not a size'],
    ['offset,offset=9007199254740992', 'is not a size'],
  ] as const) {
    it(`of ${spec} on a disk of 1 MiB is refused`, async () => {
      const refused = filtered(new PatternDevice(MiB), spec);
      await expect(refused).rejects.toBeInstanceOf(UsageError);
      await expect(refused).rejects.toThrow(message);
    });
  }

  it('must keep to the disk’s larger blocks', async () => {
    const make = (spec: string): Promise<BlockDevice> =>
      filtered(new PatternDevice(MiB, { minBlockBytes: 4096 }), spec);
    await expect(make('offset,offset=512')).rejects.toThrow(
      'multiples of the disk’s block'.replace('’', "'"),
    );
    await expect(make('offset,size=512')).rejects.toThrow('which has 4096 bytes');
    expect((await make('offset,offset=4K,size=8K')).limits.minBlockBytes).toBe(4096);
  });
});

describe('property: a window is the same bytes elsewhere', () => {
  // Bases around the borders where 32-bit and 53-bit arithmetic would go wrong.
  const base = fc
    .tuple(fc.constantFrom(0, 2 ** 31, 2 ** 32, 2 ** 33, 2 ** 40, 2 ** 52), fc.integer({ min: -8, max: 8 }))
    .map(([border, sectors]) => Math.max(0, border + sectors * 512));

  it('reads, writes and wipes exactly what lies under it', () => {
    const op = fc.record({
      kind: fc.constantFrom('write', 'trim', 'zero', 'read'),
      at: fc.integer({ min: 0, max: 8191 }),
      length: fc.integer({ min: 1, max: 3000 }),
      value: fc.integer({ min: 1, max: 255 }),
    });
    const property = fc.asyncProperty(base, fc.array(op, { maxLength: 30 }), async (start, ops) => {
      const size = 8192;
      const bottom = new PatternDevice(2 ** 52 + 2 ** 20);
      const disk = await filtered(bottom, `offset,offset=${start},size=${size}`);
      const model = patternBytes(start, size);
      for (const { kind, at, length, value } of ops) {
        const end = Math.min(size, at + length);
        if (kind === 'write') await disk.write(at, Buffer.alloc(end - at, value), false);
        else if (kind === 'trim') await disk.trim(at, end - at, false);
        else if (kind === 'zero') await disk.writeZeroes(at, end - at, false, true);
        if (kind !== 'read') model.fill(kind === 'write' ? value : 0, at, end);
        const target = Buffer.alloc(end - at);
        await disk.read(at, target);
        expect(target.equals(model.subarray(at, end))).toBe(true);
      }
      expect(bottom.bytes.slice(start, size).equals(model)).toBe(true);
      const around = Math.min(start, 4096);
      expect(bottom.bytes.slice(start - around, around).equals(patternBytes(start - around, around))).toBe(
        true,
      );
      expect(bottom.bytes.slice(start + size, 4096).equals(patternBytes(start + size, 4096))).toBe(true);
    });
    return fc.assert(property, { numRuns: 200 });
  });
});

it('grows with the disk when it shows it to its end, and not when its size was given', async () => {
  const bottom = new SparseDevice(4 * MiB);
  const open = await filtered(bottom, 'offset,offset=1M');
  await open.resize(7 * MiB);
  expect([open.sizeBytes, bottom.sizeBytes]).toEqual([7 * MiB, 8 * MiB]);
  const fixed = await filtered(new SparseDevice(4 * MiB), 'offset,offset=1M,size=1M');
  expect(() => fixed.resize(2 * MiB)).toThrow('fixed size');
});
