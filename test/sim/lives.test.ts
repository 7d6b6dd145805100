// Lives of an agent and a hub on virtual time: the rules of replication hold after every event, and when the faults end
// the replicas become the disks. A failure names its seed: SIM_SEED=n runs that one again, with all that happened when
// SIM_TRACE=1; SIM_RUNS=n runs so many from fresh seeds.
import { it } from 'vitest';
import { testSeed } from '../support/test-seed.ts';
import { LIVES_TIMEOUT_MS, runLives, seedsFrom } from './run-lives.ts';

const given = process.env.SIM_SEED;
const runs = Number(process.env.SIM_RUNS ?? 0);
const seeds = given
  ? seedsFrom(Number(given), Math.max(1, runs))
  : runs > 0
    ? seedsFrom(testSeed(), runs)
    : seedsFrom(1, 1000);

it('every rule holds in lives that are always the same', { timeout: LIVES_TIMEOUT_MS }, () =>
  runLives('lives', seeds),
);
