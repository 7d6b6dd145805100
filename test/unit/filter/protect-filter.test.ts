import fc from 'fast-check';
import { expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { filtered } from '../../support/filter-chain.ts';
import { PatternDevice, RecorderDevice, SparseDevice } from '../../support/test-devices.ts';

const SIZE = 2 ** 33;
const AT = 2 ** 32;
const EPERM = expect.objectContaining({ code: 'EPERM' }) as Error;

function attempts(disk: BlockDevice, offset: number, length: number): string[] {
  const calls = {
    read: () => disk.read(offset, Buffer.alloc(length)),
    write: () => disk.write(offset, Buffer.alloc(length, 1), false),
    trim: () => disk.trim(offset, length, false),
    zero: () => disk.writeZeroes(offset, length, true, false),
  };
  return Object.entries(calls).flatMap(([name, call]) => {
    try {
      void call();
      return [];
    } catch (error) {
      expect(error).toEqual(EPERM);
      return [name];
    }
  });
}

const CHANGES = ['write', 'trim', 'zero'];

it('refuses what touches a range, exactly to its borders, and does none of it', async () => {
  const spy = new RecorderDevice(new PatternDevice(SIZE));
  const disk = await filtered(spy, `protect,range=0-512+${AT}-${AT + 1024}`);
  for (const [offset, length] of [
    [0, 1],
    [511, 1],
    [511, 100_000],
    [AT - 1, 2],
    [AT, 1],
    [AT + 1023, 1],
    [0, 2 ** 20],
  ] as const) {
    expect(attempts(disk, offset, length)).toEqual(CHANGES);
  }
  expect(spy.take().filter((line) => !line.startsWith('read'))).toEqual([]);
  for (const [offset, length] of [
    [512, 1000],
    [AT - 1000, 1000],
    [AT + 1024, 1],
  ] as const) {
    expect(attempts(disk, offset, length)).toEqual([]);
  }
});

it('fences everything else when it is inverse, also what the disk grows by', async () => {
  const disk = await filtered(new SparseDevice(SIZE), `protect,range=${AT}-${AT + 512}+0-512,inverse`);
  expect(attempts(disk, AT, 512)).toEqual([]);
  expect(attempts(disk, 0, 512)).toEqual([]);
  for (const [offset, length] of [
    [512, 1],
    [AT - 1, 1],
    [AT + 512, 1],
    [AT + 511, 2],
  ] as const) {
    expect(attempts(disk, offset, length)).toEqual(CHANGES);
  }
  await disk.resize(SIZE + 512);
  expect(attempts(disk, SIZE, 512)).toEqual(CHANGES);
  const all = await filtered(new SparseDevice(SIZE), 'protect,range=0-,inverse');
  expect(attempts(all, 0, 512)).toEqual([]);
});

it('hides what may not be read: no data, no holes', async () => {
  const spy = new RecorderDevice(new SparseDevice(SIZE));
  const disk = await filtered(spy, `protect,range=${AT - 512}-${AT + 512},deny=all`);
  expect(attempts(disk, AT, 1)).toEqual(['read', ...CHANGES]);
  void disk.cache(AT, 512);
  expect(spy.lines()).toEqual([]);
  const extents = await disk.extents(AT - 4096, 8192);
  const hidden = extents.filter((one) => !one.hole);
  expect(hidden).toEqual([{ offset: AT - 512, length: 1024, hole: false, zero: false }]);
});

it('agrees with a list of bytes, for any ranges', async () => {
  const range = fc.tuple(fc.nat(63), fc.nat(63)).filter(([a, b]) => a !== b);
  const property = fc.asyncProperty(
    fc.array(range, { minLength: 1, maxLength: 5 }),
    fc.boolean(),
    fc.nat(62),
    fc.integer({ min: 1, max: 64 }),
    async (pairs, inverse, offset, wanted) => {
      const fenced = new Array<boolean>(64).fill(inverse);
      for (const [a, b] of pairs) fenced.fill(!inverse, Math.min(a, b), Math.max(a, b));
      const text = pairs.map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`).join('+');
      const disk = await filtered(
        new SparseDevice(64),
        `protect,range=${text},inverse=${inverse ? 'on' : 'off'}`,
      );
      const length = Math.min(wanted, 64 - offset);
      const isFenced = fenced.slice(offset, offset + length).includes(true);
      expect(attempts(disk, offset, length)).toEqual(isFenced ? CHANGES : []);
    },
  );
  await fc.assert(property, { numRuns: 200 });
});

it('refuses ranges that are not inside the disk', async () => {
  for (const range of ['1M-2M', '0-1M', `${2 ** 19}-`]) {
    const refused = filtered(new SparseDevice(2 ** 19), `protect,range=${range}`);
    await expect(refused).rejects.toThrow('is not inside the disk, which has 524288 bytes');
    await expect(refused).rejects.toBeInstanceOf(UsageError);
  }
});
