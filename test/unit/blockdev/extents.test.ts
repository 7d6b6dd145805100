import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Extent } from '../../../src/blockdev/block-device.ts';
import { ExtentList } from '../../../src/blockdev/extent-list.ts';
import { fileExtents, MAX_FILE_EXTENTS } from '../../../src/blockdev/file-extents.ts';

const hole = (offset: number, length: number): Extent => ({ offset, length, hole: true, zero: true });
const data = (offset: number, length: number): Extent => ({ offset, length, hole: false, zero: false });

describe('ExtentList', () => {
  it('merges neighbours of one state and cuts at the end', () => {
    const list = new ExtentList(100, 50);
    list.addUntil(90, true, true);
    list.addUntil(110, true, true);
    list.addUntil(120, true, true);
    list.addUntil(125, false, true);
    list.addUntil(1000, false, false);
    list.addUntil(2000, true, true);
    expect(list.finish()).toEqual([
      hole(100, 20),
      { offset: 120, length: 5, hole: false, zero: true },
      data(125, 25),
    ]);
  });

  it('refuses to be finished with a gap', () => {
    const list = new ExtentList(0, 10);
    list.addUntil(9, true, true);
    expect(() => list.finish()).toThrow('stop at 9');
    expect(new ExtentList(5, 0).finish()).toEqual([]);
  });
});

/** A file whose data lies in the given [start, end) runs. */
function seeker(runs: ReadonlyArray<readonly [number, number]>, size: number) {
  let calls = 0;
  return {
    calls: () => calls,
    seek: async (_fd: number, offset: number, what: 'data' | 'hole'): Promise<number> => {
      calls += 1;
      const inside = runs.find(([start, end]) => start <= offset && offset < end);
      if (what === 'data') return inside ? offset : (runs.find(([start]) => start > offset)?.[0] ?? -1);
      if (offset >= size) return -1;
      return inside ? inside[1] : offset;
    },
  };
}

describe('fileExtents', () => {
  it('tells data and holes', async () => {
    const file = seeker(
      [
        [4096, 8192],
        [65536, 131072],
      ],
      200_000,
    );
    expect(await fileExtents(file, 3, 0, 200_000)).toEqual([
      hole(0, 4096),
      data(4096, 4096),
      hole(8192, 57344),
      data(65536, 65536),
      hole(131072, 68928),
    ]);
    expect(await fileExtents(file, 3, 5000, 100)).toEqual([data(5000, 100)]);
    expect(await fileExtents(file, 3, 10_000, 100)).toEqual([hole(10_000, 100)]);
    expect(await fileExtents(file, 3, 10_000, 0)).toEqual([]);
  });

  it('covers any range of any file exactly and truly', async () => {
    const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 999 }), { maxLength: 20 });
    const range = fc.tuple(fc.nat({ max: 998 }), fc.integer({ min: 1, max: 999 }));
    await fc.assert(
      fc.asyncProperty(cuts, range, async (points, [offset, wanted]) => {
        const sorted = [...points].sort((a, b) => a - b);
        const runs: Array<[number, number]> = [];
        for (let i = 0; i + 1 < sorted.length; i += 2) runs.push([sorted[i]!, sorted[i + 1]!]);
        const length = Math.min(wanted, 1000 - offset);
        let at = offset;
        for (const extent of await fileExtents(seeker(runs, 1000), 3, offset, length)) {
          expect(extent.offset).toBe(at);
          for (let byte = at; byte < at + extent.length; byte += 1) {
            const isData = runs.some(([start, end]) => start <= byte && byte < end);
            expect(extent.hole).toBe(!isData);
          }
          at += extent.length;
        }
        expect(at).toBe(offset + length);
      }),
    );
  });

  it('takes for data what the file system cannot tell', async () => {
    const mute = { seek: async () => undefined };
    expect(await fileExtents(mute, 3, 100, 50)).toEqual([data(100, 50)]);
    const stuck = { seek: async (_fd: number, offset: number) => offset };
    expect(await fileExtents(stuck, 3, 100, 50)).toEqual([data(100, 50)]);
    let calls = 0;
    const breaks = {
      seek: async () => {
        calls += 1;
        return calls === 1 ? 120 : undefined;
      },
    };
    expect(await fileExtents(breaks, 3, 100, 50)).toEqual([hole(100, 20), data(120, 30)]);
  });

  it('has an end on a file in crumbs', async () => {
    const crumbs = {
      seek: async (_fd: number, offset: number, what: 'data' | 'hole') => {
        const odd = Math.floor(offset / 512) % 2 === 1;
        return odd === (what === 'data') ? offset : (Math.floor(offset / 512) + 1) * 512;
      },
    };
    const length = MAX_FILE_EXTENTS * 1024;
    const extents = await fileExtents(crumbs, 3, 0, length);
    expect(extents.length).toBeLessThanOrEqual(MAX_FILE_EXTENTS + 1);
    expect(extents.at(-1)).toMatchObject({ hole: false });
    expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(length);
  });
});
