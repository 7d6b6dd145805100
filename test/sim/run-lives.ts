// Runs many lives in a row and says what they add up to.
import { expect } from 'vitest';
import { type LifeResult, live } from './life.ts';

/** For vitest: what one batch may take on a busy machine. */
export const LIVES_TIMEOUT_MS = 600_000;

type Sum = LifeResult['looks'] & LifeResult['begun'] & { events: number; virtualMs: number };

function add(sum: Sum, { looks, begun, events, virtualMs }: LifeResult): void {
  const parts: Partial<Sum> = { ...looks, ...begun, events, virtualMs };
  for (const [key, value] of Object.entries(parts)) sum[key as keyof Sum] += value;
}

/** @param seeds one life each; the first one in which a rule is broken ends it */
export async function runLives(what: string, seeds: readonly number[]): Promise<void> {
  const startedAt = performance.now();
  const sum: Sum = {
    ...{ prefix: 0, acks: 0, silent: 0, crashes: 0, overflows: 0, protections: 0 },
    ...{ recovers: 0, refusals: 0, putBack: 0, exactPoints: 0, told: 0 },
    ...{ recall: 0, exact: 0, compare: 0, new: 0, refused: 0 },
    ...{ events: 0, virtualMs: 0 },
  };
  for (const seed of seeds) {
    const result = await live({ seed });
    if (result.lines.length > 0) console.log(result.lines.join('\n'));
    if (result.wrong !== undefined) throw new Error(result.wrong);
    add(sum, result);
  }
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  const hours = (sum.virtualMs / 3_600_000).toFixed(1);
  console.log(
    `sim: ${what}: ${seeds.length} lives, ${hours} h of virtual time, ${sum.events} events in ${seconds} s; ` +
      `looked at prefixes ${sum.prefix} times, at acknowledged data ${sum.acks}, for silent differences ${sum.silent}, at what a crash would hide ${sum.crashes}; ` +
      `let the image be put back ${sum.recovers} times (${sum.putBack} times overwritten, ${sum.exactPoints} times exactly, ${sum.refusals} refusals), held ${sum.told} of these against the status; ` +
      `protected ${sum.protections} times, ${sum.overflows} overflows; ` +
      `began anew ${sum.new} times, recalled ${sum.recall} (${sum.exact} after power failures), compared ${sum.compare}, refused ${sum.refused}`,
  );
  if (seeds.length < 20) return;
  // The rules were really looked at.
  expect(sum.protections).toBeGreaterThan(2 * seeds.length);
  expect(sum.prefix).toBeGreaterThan(10 * seeds.length);
  expect(sum.acks).toBeGreaterThan(20 * seeds.length);
  expect(sum.overflows).toBeGreaterThan(seeds.length);
  expect(sum.crashes).toBeGreaterThan(50 * seeds.length);
  expect(sum.recall).toBeGreaterThan(seeds.length / 2);
  expect(sum.compare).toBeGreaterThan(seeds.length / 5);
  expect(sum.refused).toBeGreaterThan(seeds.length / 20);
  expect(sum.putBack).toBeGreaterThan(seeds.length);
  expect(sum.exactPoints).toBeGreaterThan(seeds.length);
  expect(sum.told).toBeGreaterThan(seeds.length / 2);
}

/** So many seeds from `first` on. */
export function seedsFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (first + i) % 2 ** 32);
}
