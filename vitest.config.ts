import { defineConfig } from 'vitest/config';

// One project per kind of peer on the other side (see docs/TESTING.md). The slow guest suite has a config of its own.
const project = (name: string, testTimeout: number, fileParallelism: boolean) => ({
  extends: true as const,
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout, hookTimeout: 60_000, fileParallelism },
});

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    projects: [
      project('unit', 20_000, true),
      project('conformance', 30_000, true),
      project('interop', 180_000, false),
      project('fault', 120_000, false),
      project('examples', 120_000, false),
    ],
  },
});
