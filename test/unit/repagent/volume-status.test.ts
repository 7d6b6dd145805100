// How far behind a replica may be, as the agent says it.
import { expect, test } from 'vitest';
import { UNKNOWN_TIME_US } from '../../../src/repagent/dirty-map.ts';
import { lagMs } from '../../../src/repagent/volume-status.ts';

const NOW_US = 1_800_000_000_000_000;

test.each([
  ['nothing is missing', true, 0, 0],
  ['a change of two seconds ago is', true, NOW_US - 2_000_000, 2000],
  ['the clock was set back since', true, NOW_US + 5_000_000, 0],
  ['changes of an unknown time are', true, UNKNOWN_TIME_US, null],
  ['the replica was never complete', false, NOW_US - 2_000_000, null],
] as const)('the lag when %s', (_what, wasInSync, oldestTimeUs, expected) => {
  expect(lagMs(wasInSync, oldestTimeUs, NOW_US)).toBe(expected);
});
