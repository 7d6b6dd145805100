// The sparse bitmap against a plain Set, on sizes around its page boundaries.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';

const PAGE = 32_768;

/** Everything that can be asked of `map` must be as the set says. */
function expectSame(map: Bitmap, model: Set<number>): void {
  expect(map.count).toBe(model.size);
  const sorted = [...model].sort((a, b) => a - b);
  const runs: Array<{ start: number; end: number }> = [];
  for (const bit of sorted) {
    const last = runs.at(-1);
    if (last && last.end === bit) last.end = bit + 1;
    else runs.push({ start: bit, end: bit + 1 });
  }
  expect([...map.runs()]).toEqual(runs);
}

/** Bits near page and word boundaries, where the mistakes are. */
function bitOf(size: number): fc.Arbitrary<number> {
  const near = [0, 31, 32, 63, PAGE - 32, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE, size - 1].filter(
    (bit) => bit < size,
  );
  return fc.oneof(fc.constantFrom(...near), fc.integer({ min: 0, max: size - 1 }));
}

type Step =
  | { readonly op: 'set' | 'clear'; readonly from: number; readonly to: number }
  | { readonly op: 'one'; readonly from: number }
  | { readonly op: 'setAll' | 'clearAll' }
  | { readonly op: 'union' | 'subtract'; readonly ranges: ReadonlyArray<readonly [number, number]> };

function stepsOf(size: number): fc.Arbitrary<Step[]> {
  const range = fc
    .tuple(bitOf(size), bitOf(size))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b) + 1] as const);
  const short = fc
    .tuple(bitOf(size), fc.integer({ min: 0, max: 70 }))
    .map(([from, length]) => [from, Math.min(size, from + length)] as const);
  return fc.array(
    fc.oneof(
      {
        weight: 6,
        arbitrary: fc
          .tuple(fc.constantFrom('set' as const, 'clear' as const), fc.oneof(range, short))
          .map(([op, [from, to]]): Step => ({ op, from, to })),
      },
      { weight: 4, arbitrary: bitOf(size).map((from): Step => ({ op: 'one', from })) },
      {
        weight: 1,
        arbitrary: fc.constantFrom('setAll' as const, 'clearAll' as const).map((op): Step => ({ op })),
      },
      {
        weight: 2,
        arbitrary: fc
          .array(fc.oneof(range, short), { maxLength: 4 })
          .map((ranges): Step => ({ op: 'union', ranges })),
      },
      {
        weight: 2,
        arbitrary: fc
          .array(fc.oneof(range, short), { maxLength: 4 })
          .map((ranges): Step => ({ op: 'subtract', ranges })),
      },
    ),
    { maxLength: 24 },
  );
}

function apply(map: Bitmap, model: Set<number>, step: Step): void {
  switch (step.op) {
    case 'set':
      map.set(step.from, step.to);
      for (let bit = step.from; bit < step.to; bit += 1) model.add(bit);
      return;
    case 'one':
      map.set(step.from);
      model.add(step.from);
      return;
    case 'clear':
      map.clear(step.from, step.to);
      for (let bit = step.from; bit < step.to; bit += 1) model.delete(bit);
      return;
    case 'setAll':
      map.setAll();
      for (let bit = 0; bit < map.sizeBits; bit += 1) model.add(bit);
      return;
    case 'clearAll':
      map.clearAll();
      model.clear();
      return;
    case 'union': {
      const other = new Bitmap(map.sizeBits);
      for (const [from, to] of step.ranges) {
        other.set(from, to);
        for (let bit = from; bit < to; bit += 1) model.add(bit);
      }
      const before = [...other.runs()];
      map.union(other);
      // The other map must not notice, now or when this one changes.
      expect([...other.runs()]).toEqual(before);
      return;
    }
    case 'subtract': {
      const other = new Bitmap(map.sizeBits);
      for (const [from, to] of step.ranges) {
        other.set(from, to);
        for (let bit = from; bit < to; bit += 1) model.delete(bit);
      }
      map.subtract(other);
    }
  }
}

describe('Bitmap', () => {
  for (const size of [1, 31, 100, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE - 17]) {
    it(`behaves as a set of ${size} bits`, () => {
      fc.assert(
        fc.property(stepsOf(size), (steps) => {
          const map = new Bitmap(size);
          const model = new Set<number>();
          for (const step of steps) {
            apply(map, model, step);
            expect(map.count).toBe(model.size);
          }
          expectSame(map, model);
        }),
        { numRuns: size > 1000 ? 25 : 100 },
      );
    });
  }

  it('finds the next set and the next clear bit from anywhere', () => {
    fc.assert(
      fc.property(fc.array(bitOf(2 * PAGE + 40), { maxLength: 40 }), bitOf(2 * PAGE + 40), (bits, from) => {
        const map = new Bitmap(2 * PAGE + 40);
        for (const bit of bits) map.set(bit);
        const after = bits.filter((bit) => bit >= from);
        expect(map.nextSet(from)).toBe(after.length > 0 ? Math.min(...after) : -1);
        let clear = from;
        while (bits.includes(clear)) clear += 1;
        expect(map.nextClear(from)).toBe(clear);
        expect(map.test(from)).toBe(bits.includes(from));
        expect(map.testAny(from, from + 3)).toBe(bits.some((bit) => bit >= from && bit < from + 3));
      }),
    );
  });

  it('goes through bytes and comes back, cut at its end', () => {
    const size = 2 * PAGE + 13;
    fc.assert(
      fc.property(fc.array(bitOf(size), { maxLength: 40 }), (bits) => {
        const map = new Bitmap(size);
        for (const bit of bits) map.set(bit);
        const back = new Bitmap(size);
        const bytes = new Uint8Array(PAGE / 8);
        for (let page = 0; page < 3; page += 1) {
          map.copyPage(page, bytes);
          for (let at = 0; at < bytes.length; at += 1) {
            if (bytes[at] !== map.byteAt(page * bytes.length + at)) expect.fail(`byte ${at} of page ${page}`);
          }
          if (page === 2) bytes.fill(0xff, 2);
          back.addPage(page, bytes);
        }
        expectSame(back, new Set(bits));
        for (const page of back.pageIndexes()) back.clearPage(page);
        expectSame(back, new Set());
      }),
    );
  });

  it('does not share memory with what it was united with', () => {
    const a = new Bitmap(2 * PAGE);
    const b = new Bitmap(2 * PAGE);
    b.set(0, PAGE);
    b.set(PAGE + 5);
    a.union(b);
    a.clear(3);
    a.set(PAGE + 6);
    expect([...b.runs()]).toEqual([
      { start: 0, end: PAGE },
      { start: PAGE + 5, end: PAGE + 6 },
    ]);
    b.clear(PAGE - 1);
    const c = new Bitmap(2 * PAGE);
    c.set(0, PAGE);
    expect(c.count).toBe(PAGE);
    expect(c.nextClear(0)).toBe(PAGE);
  });

  it('costs next to nothing for a disk of 16 TiB, empty or full', () => {
    const map = new Bitmap(2 ** 28);
    expect(map.nextSet(0)).toBe(-1);
    const before = process.memoryUsage().arrayBuffers;
    map.setAll();
    expect(map.count).toBe(2 ** 28);
    expect(map.pageCount).toBe(2 ** 13);
    expect([...map.runs()]).toEqual([{ start: 0, end: 2 ** 28 }]);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
    map.clear(5, 2 ** 28);
    map.set(2 ** 28 - 1);
    expect([...map.runs()]).toEqual([
      { start: 0, end: 5 },
      { start: 2 ** 28 - 1, end: 2 ** 28 },
    ]);
    expect(map.pageCount).toBe(2);
  });

  it('lets go of pages that became empty', () => {
    const map = new Bitmap(4 * PAGE);
    map.set(PAGE + 7);
    map.clear(PAGE + 7);
    expect(map.pageCount).toBe(0);
    // The page that a bit was set in last is gone: setting it again must not write into a page nobody sees.
    map.set(PAGE + 7);
    expect(map.test(PAGE + 7)).toBe(true);
    map.clearAll();
    map.set(PAGE + 7);
    expect([map.count, map.nextSet(0)]).toEqual([1, PAGE + 7]);
    map.clear(PAGE, 2 * PAGE);
    map.set(PAGE + 8);
    expect([...map.runs()]).toEqual([{ start: PAGE + 8, end: PAGE + 9 }]);
  });

  it('refuses what lies outside, and does nothing for an empty range', () => {
    const map = new Bitmap(10);
    expect(() => map.set(10)).toThrow('outside');
    expect(() => map.set(-1)).toThrow('outside');
    expect(() => map.set(4, 11)).toThrow('outside');
    expect(() => map.clear(4, 3)).toThrow('outside');
    expect(() => map.union(new Bitmap(11))).toThrow('different sizes');
    expect(() => new Bitmap(-1)).toThrow();
    map.set(5, 5);
    map.clear(5, 5);
    expect([map.count, map.pageCount]).toEqual([0, 0]);
    new Bitmap(0).setAll();
  });
});

describe('grow', () => {
  it.each([PAGE - 1, PAGE, PAGE + 5])('keeps the bits of %d, and what is new is clear', (size) => {
    const map = new Bitmap(size);
    map.setAll();
    map.grow(3 * PAGE);
    expect(map.sizeBits).toBe(3 * PAGE);
    expect([...map.runs()]).toEqual([{ start: 0, end: size }]);
    expect(map.nextClear(0)).toBe(size);
    map.set(3 * PAGE - 1);
    expect(map.count).toBe(size + 1);
    map.setAll();
    expect(map.count).toBe(3 * PAGE);
    expect(() => map.grow(5)).toThrow('it only grows');
  });
});
