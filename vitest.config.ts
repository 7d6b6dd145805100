import { defineConfig } from 'vitest/config';

// One project per kind of peer on the other side (see docs/TESTING.md). The slow guest suite has a config of its own.
// Projects of one group run together, groups one after another: suites that watch time have the machine to themselves.
// Interop's clients wait more than they work, and nothing there is timed.
const project = (name: string, groupOrder: number, testTimeout: number, maxWorkers: number) => ({
  extends: true as const,
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    setupFiles: ['test/support/seed-properties.ts'],
    testTimeout,
    hookTimeout: 60_000,
    maxWorkers,
    sequence: { groupOrder },
  },
});

export default defineConfig({
  test: {
    pool: 'forks',
    projects: [
      project('unit', 0, 20_000, 2),
      project('conformance', 0, 30_000, 2),
      project('interop', 1, 120_000, 2),
      project('examples', 2, 120_000, 1),
      project('fault', 3, 120_000, 1),
      project('fuzz', 0, 30_000, 1),
      project('sim', 0, 120_000, 2),
    ],
  },
});
