import { defineConfig } from 'vitest/config';

// Boots virtual machines, one after another: minutes, not seconds (see docs/TESTING.md).
export default defineConfig({
  test: {
    name: 'guest',
    include: ['test/guest/**/*.test.ts'],
    globalSetup: ['test/guest/global-setup.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 60_000,
  },
});
