// The same as lives.test.ts beside it, with other lives each time: it runs on the second core.
import { it } from 'vitest';
import { testSeed } from '../support/test-seed.ts';
import { LIVES_TIMEOUT_MS, runLives, seedsFrom } from './run-lives.ts';

const isElsewhere = process.env.SIM_SEED !== undefined || process.env.SIM_RUNS !== undefined;

it('every rule holds in lives that nobody saw before', { timeout: LIVES_TIMEOUT_MS }, () =>
  runLives('fresh lives', seedsFrom(testSeed(), isElsewhere ? 1 : 600)),
);
