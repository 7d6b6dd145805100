import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LatencyHistogram } from '../../../src/filter/latency-histogram.ts';

it('is empty at first', () => {
  const empty = new LatencyHistogram();
  expect([empty.count, empty.meanUs, empty.maxUs, empty.quantileUs(0.5)]).toEqual([0, 0, 0, 0]);
  expect(empty.buckets()).toEqual([]);
});

it('sorts durations into doubling buckets', () => {
  const histogram = new LatencyHistogram();
  for (const us of [0, 0.9, 1, 1.9, 2, 3.9, 4, 1000, 1024]) histogram.add(us);
  expect(histogram.buckets()).toEqual([
    { lessThanUs: 1, count: 2 },
    { lessThanUs: 2, count: 2 },
    { lessThanUs: 4, count: 2 },
    { lessThanUs: 8, count: 1 },
    { lessThanUs: 1024, count: 1 },
    { lessThanUs: 2048, count: 1 },
  ]);
  expect(histogram.count).toBe(9);
  expect(histogram.maxUs).toBe(1024);
});

it('keeps even the absurd in its last bucket', () => {
  const histogram = new LatencyHistogram();
  histogram.add(2 ** 50);
  expect(histogram.buckets()).toEqual([{ lessThanUs: null, count: 1 }]);
  expect(histogram.quantileUs(1)).toBeLessThanOrEqual(2 ** 50);
});

it('bounds a quantile from above, by no more than twice', () => {
  const durations = fc.array(fc.double({ min: 1, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 200 });
  const share = fc.double({ min: 0.01, max: 1, noNaN: true });
  fc.assert(
    fc.property(durations, share, (values, wanted) => {
      const histogram = new LatencyHistogram();
      for (const value of values) histogram.add(value);
      const sorted = values.toSorted((a, b) => a - b);
      const exact = sorted[Math.ceil(wanted * values.length) - 1]!;
      const bound = histogram.quantileUs(wanted);
      expect(bound).toBeGreaterThanOrEqual(exact);
      expect(bound).toBeLessThanOrEqual(exact * 2);
    }),
  );
});
