// A failing seed must be worth something: the same seed is the same life, event by event, whatever ran before it.
import { expect, it } from 'vitest';
import { live } from './life.ts';

it('a seed gives the same life each time, and another seed another one', { timeout: 120_000 }, async () => {
  const first: number[] = [];
  for (let seed = 1; seed <= 12; seed += 1) {
    const { traceHash, events, virtualMs } = await live({ seed });
    first.push(traceHash, events, virtualMs);
  }
  const again: number[] = [];
  for (let seed = 12; seed >= 1; seed -= 1) {
    const { traceHash, events, virtualMs } = await live({ seed });
    again.unshift(traceHash, events, virtualMs);
  }
  expect(again).toEqual(first);
  expect(new Set(first.filter((_, i) => i % 3 === 0)).size).toBe(12);
});
