import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Extent } from '../../../src/blockdev/block-device.ts';
import { ExtentList, MAX_EXTENTS } from '../../../src/blockdev/extent-list.ts';
import { FileExtents, type SeekCalls } from '../../../src/blockdev/file-extents.ts';

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

type Seek = (offset: number, what: 'data' | 'hole') => number | undefined;

/** A file that answers seeks, in place and on the pool, and counts them. */
function seeking(seek: Seek): SeekCalls & { calls: number } {
  const file = {
    calls: 0,
    seekSync: (_fd: number, offset: number, what: 'data' | 'hole') => {
      file.calls += 1;
      return seek(offset, what);
    },
    seek: async (fd: number, offset: number, what: 'data' | 'hole') => file.seekSync(fd, offset, what),
  };
  return file;
}

/** A file whose data lies in the given [start, end) runs. */
function sparse(runs: ReadonlyArray<readonly [number, number]>, size: number): Seek {
  return (offset, what) => {
    const inside = runs.find(([start, end]) => start <= offset && offset < end);
    if (what === 'data') return inside ? offset : (runs.find(([start]) => start > offset)?.[0] ?? -1);
    if (offset >= size) return -1;
    return inside ? inside[1] : offset;
  };
}

/** On a clock that stands still: a busy machine must not look like a slow disk. */
const reader = (native: SeekCalls, now: () => number = () => 0): FileExtents =>
  new FileExtents({ fd: 3, native, now });

describe('FileExtents', () => {
  it('tells data and holes, at once', () => {
    const file = reader(
      seeking(
        sparse(
          [
            [4096, 8192],
            [65536, 131072],
          ],
          200_000,
        ),
      ),
    );
    expect(file.extents(0, 200_000)).toEqual([
      hole(0, 4096),
      data(4096, 4096),
      hole(8192, 57344),
      data(65536, 65536),
      hole(131072, 68928),
    ]);
    expect(file.extents(5000, 100)).toEqual([data(5000, 100)]);
    expect(file.extents(10_000, 100)).toEqual([hole(10_000, 100)]);
    expect(file.extents(10_000, 0)).toEqual([]);
  });

  it('covers any range of any file exactly and truly, whatever was asked before', async () => {
    const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 999 }), { maxLength: 20 });
    const range = fc.tuple(fc.nat({ max: 998 }), fc.integer({ min: 1, max: 999 }));
    await fc.assert(
      fc.asyncProperty(cuts, fc.array(range, { minLength: 1, maxLength: 4 }), async (points, ranges) => {
        const sorted = [...points].sort((a, b) => a - b);
        const runs: Array<[number, number]> = [];
        for (let i = 0; i + 1 < sorted.length; i += 2) runs.push([sorted[i]!, sorted[i + 1]!]);
        const file = reader(seeking(sparse(runs, 1000)));
        for (const [offset, wanted] of ranges) {
          const length = Math.min(wanted, 1000 - offset);
          let at = offset;
          for (const extent of await file.extents(offset, length)) {
            expect(extent.offset).toBe(at);
            for (let byte = at; byte < at + extent.length; byte += 1) {
              const isData = runs.some(([start, end]) => start <= byte && byte < end);
              expect(extent.hole).toBe(!isData);
            }
            at += extent.length;
          }
          expect(at).toBe(offset + length);
        }
      }),
    );
  });

  it('takes for data what the file system cannot tell', () => {
    expect(reader(seeking(() => undefined)).extents(100, 50)).toEqual([data(100, 50)]);
    expect(reader(seeking((offset) => offset)).extents(100, 50)).toEqual([data(100, 50)]);
    let calls = 0;
    const breaks = seeking(() => {
      calls += 1;
      return calls === 1 ? 120 : undefined;
    });
    expect(reader(breaks).extents(100, 50)).toEqual([hole(100, 20), data(120, 30)]);
  });

  it('looks for no more extents than are wanted', () => {
    const native = seeking(crumbs);
    expect(reader(native).extents(0, 1_000_000, 2)).toEqual([
      hole(0, 512),
      data(512, 512),
      { ...data(1024, 998_976), unknown: true },
    ]);
    expect(native.calls).toBe(2);
  });

  it('asks for the end of data once, until data may have become a hole', () => {
    const native = seeking(sparse([[0, 900]], 1000));
    const file = reader(native);
    expect(file.extents(0, 100)).toEqual([data(0, 100)]);
    const before = native.calls;
    for (let at = 100; at < 900; at += 100) expect(file.extents(at, 100)).toEqual([data(at, 100)]);
    expect(native.calls).toBe(before);
    file.forget();
    expect(file.extents(500, 500)).toEqual([data(500, 400), hole(900, 100)]);
    expect(native.calls).toBeGreaterThan(before);
  });

  it('has an end on a file in crumbs, and gives others their turn before', async () => {
    const file = reader(seeking(crumbs));
    const length = MAX_EXTENTS * 1024;
    const answer = file.extents(0, length);
    expect(answer).toBeInstanceOf(Promise);
    const extents = await answer;
    expect(extents.length).toBeLessThanOrEqual(MAX_EXTENTS + 1);
    expect(extents.at(-1)).toMatchObject({ hole: false, unknown: true });
    expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(length);
  });

  it('stops looking where that takes long, on the thread pool by then', async () => {
    let nowMs = 0;
    let inPlace = 0;
    const slow: SeekCalls = {
      seekSync: (_fd, offset, what) => {
        nowMs += 20;
        inPlace += 1;
        return crumbs(offset, what);
      },
      seek: async (_fd, offset, what) => {
        nowMs += 20;
        return crumbs(offset, what);
      },
    };
    const extents = await reader(slow, () => nowMs).extents(0, 1024 * 1024);
    expect(inPlace).toBe(1);
    expect(extents.length).toBeLessThan(20);
    expect(extents.at(-1)).toMatchObject({ unknown: true });
  });
});

/** Every other sector is data. */
function crumbs(offset: number, what: 'data' | 'hole'): number {
  const odd = Math.floor(offset / 512) % 2 === 1;
  return odd === (what === 'data') ? offset : (Math.floor(offset / 512) + 1) * 512;
}
