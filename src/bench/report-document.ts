// Puts the figures of a run into a Markdown document, between two markers; everything outside them stays. Pure.
import { UsageError } from '../base/errors.ts';
import { benchHeading, benchTables, markdownTable } from './report-table.ts';
import type { BenchResult } from './result.ts';

export const BEGIN_MARKER = '<!-- bench figures begin: written by `repagent bench --report` -->';
export const END_MARKER = '<!-- bench figures end -->';

/** @param chartName how the document refers to the chart */
export function benchMarkdown(result: BenchResult, chartName: string): string {
  return [
    ...benchHeading(result),
    `![Speed in each cell](${chartName})`,
    ...benchTables(result).map((table) => markdownTable(table).trimEnd()),
  ].join('\n\n');
}

/** @throws UsageError when the document lacks the markers */
export function replaceFigures(document: string, figures: string): string {
  const begin = document.indexOf(BEGIN_MARKER);
  const end = document.indexOf(END_MARKER);
  if (begin === -1 || end < begin) {
    throw new UsageError(
      `--report: the document has no place for figures; it needs the two lines\n${BEGIN_MARKER}\n${END_MARKER}`,
    );
  }
  return `${document.slice(0, begin + BEGIN_MARKER.length)}\n\n${figures}\n\n${document.slice(end)}`;
}
