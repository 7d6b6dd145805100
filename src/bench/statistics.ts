// The statistics of the bench. Pure. Medians, not means: one disturbed round must not move a figure.

/** The middle value; between the two middle ones of an even count. @throws RangeError for no values */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('no median of nothing');
  const sorted = values.toSorted((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** How far the values lie apart: (largest - smallest) / median; 0 when the median is 0. */
export function spread(values: readonly number[]): number {
  const middle = median(values);
  return middle === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / middle;
}

/** The geometric mean: the one mean of ratios that doesn't depend on which side is divided by which. */
export function geometricMean(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('no mean of nothing');
  if (values.some((value) => !(value > 0))) throw new RangeError('a geometric mean needs positive values');
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}
