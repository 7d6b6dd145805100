// Random numbers that can be repeated: the same seed gives the same faults and delays. Not for secrets.
import { randomInt } from 'node:crypto';

/** Largest seed. */
export const MAX_SEED = 2 ** 32 - 1;

/** A seed for a run that was given none; show it, so that the run can be repeated. */
export function freshSeed(): number {
  return randomInt(MAX_SEED);
}

/**
 * A generator of numbers in [0, 1), a multiply-and-xorshift hash of a 32-bit counter.
 * @param seed whole number, 0 to {@link MAX_SEED}
 */
export function seededRandom(seed: number): () => number {
  let counter = seed >>> 0;
  return function nextRandom() {
    counter = (counter + 0x9e37_79b9) >>> 0;
    let x = counter;
    x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a_2d97);
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32;
  };
}
