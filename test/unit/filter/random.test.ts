import { expect, it } from 'vitest';
import { freshSeed, MAX_SEED, seededRandom } from '../../../src/filter/random.ts';

function draw(seed: number, count: number): number[] {
  const next = seededRandom(seed);
  return Array.from({ length: count }, () => next());
}

it('repeats itself for one seed and differs for another', () => {
  expect(draw(42, 100)).toEqual(draw(42, 100));
  expect(draw(42, 100)).not.toEqual(draw(43, 100));
});

it('stays in [0, 1) and spreads evenly, whatever the seed', () => {
  for (const seed of [0, 1, 2 ** 31, MAX_SEED]) {
    const values = draw(seed, 20_000);
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...values)).toBeLessThan(1);
    const tenths = new Array<number>(10).fill(0);
    for (const value of values) tenths[Math.floor(value * 10)]! += 1;
    for (const count of tenths) expect(Math.abs(count - 2000)).toBeLessThan(250);
  }
});

it('makes fresh seeds that an option accepts', () => {
  const seeds = Array.from({ length: 20 }, freshSeed);
  for (const seed of seeds) expect(Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED).toBe(true);
  expect(new Set(seeds).size).toBeGreaterThan(1);
});
