import fs from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Extent } from '../../../src/blockdev/block-device.ts';
import { ExtentList } from '../../../src/blockdev/extent-list.ts';
import { BELOW, CowBlocks, SCRATCH, ZERO } from '../../../src/filter/cow-blocks.ts';
import { DiskModel } from '../../support/disk-model.ts';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import { operationBatches, runBatch } from '../../support/random-operations.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import {
  JumbleDevice,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
} from '../../support/test-devices.ts';

const AT = 2 ** 32;
const CHANGES = /^(write|trim|flush)/;

let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
});
afterEach(() => dir.remove());

for (const spec of ['cow,memory', 'cow']) {
  it(`${spec}: combines what was changed with the disk below, which nothing touches`, async () => {
    const spy = new RecorderDevice(new PatternDevice(2 ** 33, { readOnly: true }));
    const { chain, context } = await filterChain(spy, [spec]);
    expect(chain.limits.readOnly).toBe(false);
    const model = patternBytes(AT - 65_536, 131_072);
    const at = (offset: number): number => offset - (AT - 65_536);
    await chain.write(AT - 5000, Buffer.alloc(10_000, 7), true);
    model.fill(7, at(AT - 5000), at(AT + 5000));
    await chain.trim(AT - 4096, 4096, true);
    await chain.writeZeroes(AT + 20_000, 1000, true, false);
    model.fill(0, at(AT - 4096), at(AT));
    model.fill(0, at(AT + 20_000), at(AT + 21_000));
    await chain.flush();
    const got = Buffer.alloc(131_072);
    await chain.read(AT - 65_536, got);
    expect(got.equals(model)).toBe(true);
    expect(spy.lines().filter((line) => CHANGES.test(line))).toEqual([]);
    // Blocks of 4 KiB: -8192, 0, 4096 hold data, -4096 was trimmed, 16384 and 20480 are data again.
    expect(context.status().cow).toMatchObject({ scratchBytes: 5 * 4096, refused: 0 });
    const extents = await chain.extents(AT - 12_288, 24_576);
    expect(extents.filter(({ hole }) => hole)).toEqual([
      { offset: AT - 4096, length: 4096, hole: true, zero: true },
    ]);
    await chain.close();
    expect(spy.closes).toBe(1);
  });
}

it('does what a plain array does, over a disk that answers late, and below nothing changes', async () => {
  const size = 65_536;
  const property = fc.asyncProperty(operationBatches(size, 8), fc.nat(1000), async (batches, seed) => {
    const bottom = new PatternDevice(size, { readOnly: true });
    const disk = await filtered(new JumbleDevice(bottom, seed), 'cow,memory');
    const model = new DiskModel(size);
    model.write(0, patternBytes(0, size));
    for (const batch of batches) {
      await runBatch(disk, model, batch);
      const all = Buffer.alloc(size);
      await disk.read(0, all);
      expect(model.firstDifference(all)).toBe(-1);
    }
    await disk.close();
    expect(bottom.bytes.slice(0, size).equals(patternBytes(0, size))).toBe(true);
  });
  await fc.assert(property, { numRuns: 60 });
});

it('is full at its limit: ENOSPC before anything is done, and a trim makes room', async () => {
  const { chain, context } = await filterChain(new PatternDevice(2 ** 20), ['cow,memory,limit=8K']);
  await chain.write(0, Buffer.alloc(8192, 1), false);
  for (const change of [
    () => chain.write(8192, Buffer.alloc(1), false),
    () => chain.write(4096, Buffer.alloc(8192, 2), false),
    () => chain.writeZeroes(8192, 4096, false, false),
  ]) {
    await expect((async () => change())()).rejects.toMatchObject({ code: 'ENOSPC' });
  }
  const target = Buffer.alloc(12_288);
  await chain.read(0, target);
  expect(target.equals(Buffer.concat([Buffer.alloc(8192, 1), patternBytes(8192, 4096)]))).toBe(true);
  expect(context.status().cow).toEqual({ scratchBytes: 8192, limitBytes: 8192, refused: 3 });
  await chain.write(0, Buffer.alloc(8192, 3), false);
  await chain.writeZeroes(2 ** 19, 4096, false, true);
  await chain.trim(4096, 4096, false);
  await chain.write(8192, Buffer.alloc(4096, 4), false);
  await chain.read(0, target);
  expect(target.equals(Buffer.concat([3, 0, 4].map((value) => Buffer.alloc(4096, value))))).toBe(true);
});

it('grows alone: what is new reads as zeroes, and the disk below keeps its size', async () => {
  const bottom = new PatternDevice(10_240);
  const disk = await filtered(bottom, 'cow');
  await disk.write(10_000, Buffer.alloc(240, 9), false);
  await disk.resize(20_480);
  const target = Buffer.alloc(20_480, 1);
  await disk.read(0, target);
  const expected = Buffer.concat([patternBytes(0, 10_000), Buffer.alloc(240, 9), Buffer.alloc(10_240)]);
  expect(target.equals(expected)).toBe(true);
  await disk.write(20_000, Buffer.alloc(480, 5), false);
  expect([bottom.sizeBytes, disk.sizeBytes]).toEqual([10_240, 20_480]);
  const extents = await disk.extents(0, 20_480);
  expect(extents.at(-1)!.offset + extents.at(-1)!.length).toBe(20_480);
  await disk.close();
});

it('keeps its data in a file of its own, which is sparse and gone at the end', async () => {
  const file = dir.file('scratch');
  const disk = await filtered(new SparseDevice(2 ** 30), `cow,file=${file}`);
  await disk.write(2 ** 29, Buffer.alloc(65_536, 1), false);
  const { size, blocks, mode } = fs.statSync(file);
  expect([size, mode & 0o777]).toEqual([2 ** 30, 0o600]);
  expect(blocks * 512).toBeLessThan(2 ** 20);
  const taken = filtered(new SparseDevice(2 ** 30), `cow,file=${file}`);
  await expect(taken).rejects.toThrow(`the scratch file ${file} exists already`);
  await disk.close();
  expect(fs.existsSync(file)).toBe(false);
  await expect(filtered(new SparseDevice(512), 'cow,file=/nonexistent/x')).rejects.toThrow("can't make");
});

describe('the map of blocks', () => {
  it('agrees with a list, for any changes', () => {
    const span = fc.tuple(fc.nat(40_000), fc.nat(40_000), fc.constantFrom(SCRATCH, ZERO));
    const property = fc.property(fc.array(span, { maxLength: 12 }), fc.nat(40_000), (spans, look) => {
      const blocks = new CowBlocks();
      const model = new Uint8Array(40_001).fill(BELOW);
      for (const [a, b, state] of spans) {
        blocks.set(Math.min(a, b), Math.max(a, b), state as typeof ZERO);
        model.fill(state, Math.min(a, b), Math.max(a, b));
      }
      expect(blocks.scratchBlocks).toBe(model.filter((state) => state === SCRATCH).length);
      expect(blocks.get(look)).toBe(model[look]);
      const end = model.findIndex((state, at) => at > look && state !== model[look]);
      expect(blocks.runEnd(look, 40_001)).toBe(end === -1 ? 40_001 : end);
      const outside = model.subarray(0, look).filter((state) => state !== SCRATCH).length;
      expect(blocks.countOutside(0, look)).toBe(outside);
    });
    fc.assert(property, { numRuns: 300 });
  });
});

it('tells the extents of a disk in shreds a part at a time', async () => {
  const BLOCK = 4096;
  const size = 1024 * BLOCK;
  const spy = new RecorderDevice(new SparseDevice(size));
  const disk = await filtered(spy, 'cow,memory');
  for (let at = 0; at < size; at += 2 * BLOCK) await disk.write(at, Buffer.alloc(BLOCK, 1), false);
  const queries = (): number => spy.lines().filter((line) => line.startsWith('extents')).length;
  let answers = 0;
  for (let at = 0; at < size; answers += 1) {
    const before = queries();
    const extents = await disk.extents(at, size - at);
    expect(queries() - before).toBeLessThanOrEqual(128);
    for (const { offset, length, hole, unknown } of extents) {
      if (unknown) break;
      expect([offset, length, hole]).toEqual([at, BLOCK, (at / BLOCK) % 2 === 1]);
      at += length;
    }
  }
  expect(answers).toBeGreaterThan(1);
  const few = await disk.extents(0, size, 1);
  expect(few.length).toBeLessThan(5);
  expect(few.at(-1)).toMatchObject({ unknown: true });
});

it.each(['cow,memory', 'protect,range=0-512,deny=all'])(
  '%s keeps open what the disk below left open',
  async (spec) => {
    class OpenEnded extends SparseDevice {
      override extents(offset: number, length: number): Extent[] {
        const list = new ExtentList(offset, length);
        list.addUntil(offset + 4096, true, true);
        return list.giveUp();
      }
    }
    const disk = await filtered(new OpenEnded(65_536), spec);
    const extents = await disk.extents(0, 65_536);
    expect(extents.at(-1)).toMatchObject({ offset: 4096, length: 61_440, unknown: true });
  },
);
