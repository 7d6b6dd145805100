// Runs before each test file: where the whole run has a seed, fast-check's properties take it. Otherwise each property
// has a new one, and fast-check isn't loaded for files that don't use it.
import { testSeed } from './test-seed.ts';

if (process.env.REPAGENT_TEST_SEED !== undefined) {
  const { configureGlobal, readConfigureGlobal } = await import('fast-check');
  configureGlobal({ ...readConfigureGlobal(), seed: testSeed() | 0 });
}
