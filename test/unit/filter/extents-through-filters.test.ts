// What a disk tells of its holes must come through every filter unharmed, around 2^32 above all, where 32-bit arithmetic
// breaks: reads of clients trust it.
import { describe, expect, it } from 'vitest';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice, Extent } from '../../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { describeFilters } from '../../../src/filter/registry.ts';
import { filtered } from '../../support/filter-chain.ts';

const SIZE = 5 * GiB;
const DATA = 256 * KiB;
/** Both sides of 4 GiB, and far from it. */
const DATA_AT = [0, 2 * GiB - DATA, 4 * GiB - DATA / 2, SIZE - DATA];

/** By filter; those that are not here are given no options. */
const SPECS: Readonly<Record<string, string>> = {
  cow: 'cow,memory',
  delay: 'delay,read=0',
  error: 'error,rate=0',
  evil: 'evil,rate=0,seed=1',
  offset: 'offset,offset=1M',
  protect: 'protect,range=3G-3073M',
  readonly: 'readonly,active=off',
  stats: 'stats,quiet',
};

const RANGES: ReadonlyArray<readonly [offset: number, length: number]> = [
  [0, SIZE - MiB],
  [4 * GiB - MiB, 2 * MiB],
  [4 * GiB - 4 * KiB, 8 * KiB],
  [4 * GiB, GiB - MiB],
  [2 * GiB - MiB, 2 * GiB + 2 * MiB],
];

function makeDisk(): MemoryDevice {
  const disk = new MemoryDevice({ sizeBytes: SIZE });
  for (const at of DATA_AT) disk.write(at, Buffer.alloc(DATA, 7), false);
  return disk;
}

/** Neighbours of one kind joined, so that only what is told counts. */
async function told(device: BlockDevice, offset: number, length: number): Promise<Extent[]> {
  const joined: Extent[] = [];
  for (const { unknown: _, ...extent } of await device.extents(offset, length)) {
    const last = joined.at(-1);
    if (last && last.hole === extent.hole && last.zero === extent.zero) {
      joined[joined.length - 1] = { ...last, length: last.length + extent.length };
    } else {
      joined.push(extent);
    }
  }
  return joined;
}

describe.each(describeFilters().map(({ name }) => name))('the filter %s', (name) => {
  const shift = name === 'offset' ? MiB : 0;

  it.each(RANGES)('tells the extents at %d+%d as the disk below does', async (offset, length) => {
    const disk = makeDisk();
    const below = await told(disk, offset + shift, length);
    const device = await filtered(disk, SPECS[name] ?? name);
    // What evil may damage is no hole any more.
    const expected =
      name === 'evil'
        ? [{ offset, length, hole: false, zero: false }]
        : below.map((extent) => ({ ...extent, offset: extent.offset - shift }));
    expect(await told(device, offset, length)).toEqual(expected);
    await device.close();
  });

  it('tells as data what was written through it there', async () => {
    const device = await filtered(makeDisk(), SPECS[name] ?? name);
    for (const at of [4 * GiB + MiB, 4 * GiB - MiB]) {
      await device.write(at, Buffer.alloc(64 * KiB, 9), false);
      const extents = await told(device, at, 64 * KiB);
      expect(extents).toEqual([{ offset: at, length: 64 * KiB, hole: false, zero: false }]);
      const target = Buffer.alloc(64 * KiB);
      await device.read(at, target);
      expect(target.every((byte) => byte === 9)).toBe(true);
    }
    await device.close();
  });
});

it('sees a range that was only written to the scratch of cow, among holes', async () => {
  const device = await filtered(makeDisk(), 'cow,memory');
  const at = 4 * GiB + 3 * MiB;
  await device.write(at, Buffer.alloc(4 * KiB, 1), false);
  expect(await told(device, at - 64 * KiB, 128 * KiB)).toEqual([
    { offset: at - 64 * KiB, length: 64 * KiB, hole: true, zero: true },
    { offset: at, length: 4 * KiB, hole: false, zero: false },
    { offset: at + 4 * KiB, length: 60 * KiB, hole: true, zero: true },
  ]);
  await device.close();
});
