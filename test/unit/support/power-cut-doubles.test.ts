// The doubles that power cuts are made with: a disk that forgets what was not flushed, and a record of what was written
// to a disk that finds every sector that is too old, torn or foreign.
import { expect, it } from 'vitest';
import { seededRandom } from '../../../src/filter/random.ts';
import { BLOCK_BYTES, TaggedDisk } from '../../support/tagged-disk.ts';
import { VolatileDisk } from '../../support/volatile-disk.ts';

const SECTOR = 512;

function filled(bytes: number, value: number): Buffer {
  return Buffer.alloc(bytes, value);
}

it('a volatile disk keeps what was flushed, and any part of the rest, by sectors', () => {
  const random = seededRandom(1);
  let kept = 0;
  let torn = 0;
  for (let i = 0; i < 200; i += 1) {
    const disk = new VolatileDisk(4 * BLOCK_BYTES);
    disk.write(0, filled(BLOCK_BYTES, 1), false);
    disk.flush();
    disk.write(BLOCK_BYTES, filled(BLOCK_BYTES, 2), false);
    const medium = disk.afterPowerCut(random);
    expect(medium.subarray(0, BLOCK_BYTES).equals(filled(BLOCK_BYTES, 1))).toBe(true);
    const second = medium.subarray(BLOCK_BYTES, 2 * BLOCK_BYTES);
    const sectors = Array.from({ length: 8 }, (_, n) => second.subarray(n * SECTOR, (n + 1) * SECTOR));
    const there = sectors.filter((sector) => sector.equals(filled(SECTOR, 2))).length;
    expect(sectors.filter((sector) => sector.equals(filled(SECTOR, 0)))).toHaveLength(8 - there);
    if (there === 8) kept += 1;
    else if (there > 0) torn += 1;
  }
  expect(kept).toBeGreaterThan(20);
  expect(kept).toBeLessThan(180);
  expect(torn).toBeGreaterThan(5);
});

it('a volatile disk shows what was written until its power is cut, and takes nothing after that', () => {
  const disk = new VolatileDisk(BLOCK_BYTES);
  const seen = Buffer.alloc(BLOCK_BYTES);
  disk.write(0, filled(BLOCK_BYTES, 3), false);
  disk.read(0, seen);
  expect(seen.equals(filled(BLOCK_BYTES, 3))).toBe(true);
  disk.powerCut(() => 0.999); // nothing survives, and nothing is torn
  expect(() => disk.write(0, seen, true)).toThrow('no power');
  expect(() => disk.flush()).toThrow('no power');
  disk.powerOn();
  disk.read(0, seen);
  expect(seen.equals(filled(BLOCK_BYTES, 0))).toBe(true);
  disk.write(0, filled(BLOCK_BYTES, 4), true);
  expect(disk.flushed.equals(filled(BLOCK_BYTES, 4))).toBe(true);
});

it('a cut at a request comes before the request', () => {
  const disk = new VolatileDisk(BLOCK_BYTES);
  disk.onRequest = () => disk.powerCut(() => 0);
  expect(() => disk.write(0, filled(BLOCK_BYTES, 1), true)).toThrow('no power');
  expect(disk.flushed.equals(filled(BLOCK_BYTES, 0))).toBe(true);
});

it('tagged writes tell a copy that is too old, torn, misplaced or foreign', () => {
  const disk = new TaggedDisk(4 * BLOCK_BYTES);
  const first = disk.next(0, 2);
  const second = disk.next(1, 2);
  const copy = Buffer.alloc(disk.sizeBytes);
  expect(disk.problems(copy, 0)).toEqual([]);
  expect(disk.problems(copy, 1)[0]).toMatch('zeroes instead of write 1 at 0, block 0');
  first.copy(copy, 0);
  expect(disk.problems(copy, 1)).toEqual([]);
  expect(disk.problems(copy, 2)[0]).toMatch('write 1 instead of 2 at 4096, block 1');
  second.copy(copy, BLOCK_BYTES + SECTOR, SECTOR); // all but a sector, which is older
  expect(disk.problems(copy, 1)).toEqual([]);
  expect(disk.problems(copy, 2)).toHaveLength(1);
  second.copy(copy, BLOCK_BYTES);
  expect(disk.problems(copy, 2)).toEqual([]);
  second.copy(copy, 3 * BLOCK_BYTES, 0, SECTOR);
  expect(disk.problems(copy, 2)[0]).toMatch('a sector that was never written at 12288');
  copy.fill(0, 3 * BLOCK_BYTES);
  copy[100] = 9;
  expect(disk.problems(copy, 2)[0]).toMatch('a torn sector at 0');
  copy.fill(0);
  first.copy(copy, 0);
  disk.lostPower(1); // and with it write 2, maybe
  expect(disk.problems(copy, 2)).toEqual([]);
  disk.next(1, 1).copy(copy, 0, 0); // misplaced
  expect(disk.problems(copy, 2)[0]).toMatch('a sector that was never written at 0');
  expect(disk.problems(copy.subarray(SECTOR), 2)[0]).toMatch('bytes instead of');
});
