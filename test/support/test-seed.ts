// The random seed of a whole test run: REPAGENT_TEST_SEED, or a new one. With it every test that makes up its own input
// (properties, lives, fuzz targets) makes up the same one again.
import { freshSeed, MAX_SEED } from '../../src/filter/random.ts';

const given = process.env.REPAGENT_TEST_SEED;

/**
 * @returns the run's seed, or a new one where it has none; 0 to 2^32 - 1
 * @throws Error when REPAGENT_TEST_SEED is no such number
 */
export function testSeed(): number {
  if (given === undefined) return freshSeed();
  const seed = Number(given);
  if (given.trim() !== '' && Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED) return seed;
  throw new Error(`REPAGENT_TEST_SEED is "${given}": a whole number from 0 to ${MAX_SEED} is allowed`);
}
