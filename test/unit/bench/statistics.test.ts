import { describe, expect, test } from 'vitest';
import { orderOfRound } from '../../../src/bench/order.ts';
import { geometricMean, median, spread } from '../../../src/bench/statistics.ts';

describe('statistics', () => {
  test('the median is the middle value, or lies between the two middle ones', () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([10, 1, 2, 4])).toBe(3);
    expect(median([7])).toBe(7);
    expect(() => median([])).toThrow(RangeError);
  });

  test('a single wild round does not move the median, but shows in the spread', () => {
    expect(median([100, 101, 1000])).toBe(101);
    expect(spread([100, 101, 1000])).toBeCloseTo(8.91, 2);
    expect(spread([5, 5])).toBe(0);
    expect(spread([0, 0])).toBe(0);
  });

  test('the geometric mean of ratios is the same from both sides', () => {
    const ratios = [0.5, 1, 4, 3];
    expect(geometricMean([2, 8])).toBeCloseTo(4);
    expect(geometricMean(ratios.map((one) => 1 / one))).toBeCloseTo(1 / geometricMean(ratios));
    expect(() => geometricMean([])).toThrow(RangeError);
    expect(() => geometricMean([1, 0])).toThrow(RangeError);
  });
});

describe('order of rounds', () => {
  test('pairs go there and back', () => {
    expect(orderOfRound(['a', 'b'], 0)).toEqual(['a', 'b']);
    expect(orderOfRound(['a', 'b'], 1)).toEqual(['b', 'a']);
    expect(orderOfRound([], 3)).toEqual([]);
  });

  test('within a pair every server has the same mean place, so that a steady drift favours nobody', () => {
    const servers = ['a', 'b', 'c', 'd', 'e'];
    for (const pair of [0, 1, 2, 3, 4, 5]) {
      const rounds = [orderOfRound(servers, pair * 2), orderOfRound(servers, pair * 2 + 1)];
      const places = servers.map((one) => rounds.reduce((sum, round) => sum + round.indexOf(one), 0));
      expect(new Set(places)).toEqual(new Set([servers.length - 1]));
      for (const round of rounds) expect(round.toSorted()).toEqual(servers);
    }
  });

  test('every server begins a pair in its turn', () => {
    const servers = ['a', 'b', 'c'];
    expect([0, 2, 4, 6].map((round) => orderOfRound(servers, round)[0])).toEqual(['a', 'b', 'c', 'a']);
  });
});
