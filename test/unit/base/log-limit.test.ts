// A flood of events becomes a few lines, and the count of what was left out is told.
import { expect, it } from 'vitest';
import { LogLimit } from '../../../src/base/log-limit.ts';

it('lets so many lines through in each interval, and then says how many it left out', () => {
  let now = 5;
  const limit = new LogLimit({ maxLines: 2, intervalMs: 100, now: () => now });
  const admit = (times: number): unknown[] => Array.from({ length: times }, () => limit.admit());
  expect(admit(5)).toEqual([{}, {}, undefined, undefined, undefined]);
  now = 104;
  expect(admit(1)).toEqual([undefined]);
  now = 105;
  expect(admit(3)).toEqual([{ leftOut: 4 }, {}, undefined]);
  now = 1000;
  expect(admit(1)).toEqual([{ leftOut: 1 }]);
});
