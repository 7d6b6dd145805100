// How long a fuzz target runs and from which seed: some seconds in the suite, longer by `npm run fuzz`.
import fc from 'fast-check';
import { expect } from 'vitest';
import { MAX_SEED } from '../../src/filter/random.ts';
import { testSeed } from '../support/test-seed.ts';

/** Of one target, milliseconds. */
const FUZZ_MS = Number(process.env.FUZZ_SECONDS ?? 10) * 1000;
const FUZZ_SEED = process.env.FUZZ_SEED === undefined ? testSeed() : Number(process.env.FUZZ_SEED);

/** For vitest: a target's time, and what it may need to shrink a failure. */
export const FUZZ_TIMEOUT_MS = FUZZ_MS + 120_000;

/** Runs from one seed; the next batch has the next seed. Small, so that a failure is soon there again. */
const BATCH_RUNS = 50;

/**
 * Runs a property until the time is up, says how often, and fails with the shortest input that breaks it and the seed
 * of its batch.
 */
export async function fuzz<T>(what: string, property: fc.IAsyncPropertyWithHooks<T>): Promise<void> {
  const startedAt = performance.now();
  let runs = 0;
  let seed = FUZZ_SEED;
  do {
    const details = await fc.check(property, { seed, numRuns: BATCH_RUNS });
    runs += details.numRuns;
    if (details.failed) {
      const report = await fc.asyncDefaultReportMessage(details);
      throw new Error(`${what}: --seed ${seed}, after ${runs} runs\n${report}`, {
        cause: details.errorInstance,
      });
    }
    seed = (seed + 1) % MAX_SEED;
  } while (performance.now() - startedAt < FUZZ_MS);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`fuzz: ${what}: ${runs} runs in ${seconds} s, seeds ${FUZZ_SEED} to ${seed - 1}`);
  expect(runs).toBeGreaterThan(0);
}
