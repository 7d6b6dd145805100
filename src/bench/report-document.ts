// Puts the figures of a run into a Markdown document, between two markers; everything outside them stays. Pure.
import { UsageError } from '../base/errors.ts';
import { benchHeading, benchTables, markdownTable } from './report-table.ts';
import type { BenchResult } from './result.ts';

/** A place for figures in a document: a line before it and one behind it. */
export interface Place {
  readonly begin: string;
  readonly end: string;
}

export const BENCH_PLACE: Place = {
  begin: '<!-- bench figures begin: written by `repagent bench --report` -->',
  end: '<!-- bench figures end -->',
};
export const RECOVERY_PLACE: Place = {
  begin: '<!-- recovery figures begin: written by `repagent bench --recovery --report` -->',
  end: '<!-- recovery figures end -->',
};
export const SCALE_PLACE: Place = {
  begin: '<!-- scale figures begin: written by `repagent bench --scale --report` -->',
  end: '<!-- scale figures end -->',
};

/** @param chartName how the document refers to the chart */
export function benchMarkdown(result: BenchResult, chartName: string): string {
  return [
    ...benchHeading(result),
    `![Speed in each cell](${chartName})`,
    ...benchTables(result).map((table) => markdownTable(table).trimEnd()),
  ].join('\n\n');
}

/** @throws UsageError when the document lacks the place */
export function replaceFigures(document: string, figures: string, place: Place): string {
  const begin = document.indexOf(place.begin);
  const end = document.indexOf(place.end);
  if (begin === -1 || end < begin) {
    throw new UsageError(
      `--report: the document has no place for figures; it needs the two lines\n${place.begin}\n${place.end}`,
    );
  }
  return `${document.slice(0, begin + place.begin.length)}\n\n${figures}\n\n${document.slice(end)}`;
}
