// The simulator must be able to find what it looks for: bug after bug is put into the agent or the hub, and each has to
// show within some seeds.
import { describe, expect, it } from 'vitest';
import { FILE_BUGS } from './file-mutations.ts';
import { live } from './life.ts';
import { BUGS } from './mutations.ts';
import { UNDO_BUGS } from './undo-mutations.ts';

/** In how many lives a bug has to show. */
const MOST_LIVES = 1000;

describe('a bug is found:', () => {
  it.each([...BUGS, ...FILE_BUGS, ...UNDO_BUGS])('$name', { timeout: 300_000 }, async (bug) => {
    for (let seed = 1; seed <= MOST_LIVES; seed += 1) {
      const { wrong } = await live({ seed, bug });
      if (wrong === undefined) continue;
      console.log(`sim: found in life ${seed}: ${bug.name}: ${wrong.slice(0, 160)}`);
      return;
    }
    expect.fail(`not found in ${MOST_LIVES} lives`);
  });
});
