// The largest of values of which some may be unknown.

/** @returns undefined when none is known */
export function maxKnown(values: Iterable<number | undefined>): number | undefined {
  let most: number | undefined;
  for (const value of values) if (value !== undefined) most = Math.max(most ?? value, value);
  return most;
}
