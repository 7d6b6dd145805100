// Runs many lives in a row and says what they add up to.
import { expect } from 'vitest';
import { live } from './life.ts';

/** For vitest: what one batch may take on a busy machine. */
export const LIVES_TIMEOUT_MS = 600_000;

const looked = { prefix: 0, acks: 0, silent: 0, overflows: 0, protections: 0 };

/** @param seeds one life each; the first one in which a rule is broken ends it */
export async function runLives(what: string, seeds: readonly number[]): Promise<void> {
  const startedAt = performance.now();
  const sum = { ...looked };
  let events = 0;
  let virtualMs = 0;
  for (const seed of seeds) {
    const result = await live({ seed });
    if (result.lines.length > 0) console.log(result.lines.join('\n'));
    if (result.wrong !== undefined) throw new Error(result.wrong);
    events += result.events;
    virtualMs += result.virtualMs;
    for (const key of Object.keys(sum) as Array<keyof typeof sum>) sum[key] += result.looks[key];
  }
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  const hours = (virtualMs / 3_600_000).toFixed(1);
  console.log(
    `sim: ${what}: ${seeds.length} lives, ${hours} h of virtual time, ${events} events in ${seconds} s; ` +
      `looked at prefixes ${sum.prefix} times, at acknowledged data ${sum.acks}, for silent differences ${sum.silent}; ` +
      `protected ${sum.protections} times, ${sum.overflows} overflows`,
  );
  if (seeds.length < 20) return;
  // The rules were really looked at.
  expect(sum.protections).toBeGreaterThan(2 * seeds.length);
  expect(sum.prefix).toBeGreaterThan(10 * seeds.length);
  expect(sum.acks).toBeGreaterThan(20 * seeds.length);
  expect(sum.overflows).toBeGreaterThan(seeds.length);
}

/** So many seeds from `first` on. */
export function seedsFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (first + i) % 2 ** 32);
}
