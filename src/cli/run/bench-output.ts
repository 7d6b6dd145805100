// What every kind of bench run shares: its plan, its progress on standard error, its figures on standard output, and the
// document that gets them.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../base/errors.ts';
import { formatDuration } from '../../base/size.ts';
import type { BenchRunOptions } from '../../bench/bench-run.ts';
import { type Place, replaceFigures } from '../../bench/report-document.ts';
import { type Table, textTable } from '../../bench/report-table.ts';
import { packageVersion } from '../version.ts';
import { watchSignals } from './signals.ts';

const DOCUMENT_NAME = 'PERFORMANCE.md';

/** A document with a place for figures. */
class ReportDocument {
  readonly folder: string;
  readonly path: string;
  readonly #place: Place;

  /** Before anything is measured: afterwards would be a pity. @throws UsageError when it isn't there, or has no place */
  constructor(folder: string, place: Place) {
    this.folder = folder;
    this.path = join(folder, DOCUMENT_NAME);
    this.#place = place;
    if (!existsSync(this.path)) throw new UsageError(`--report: there is no ${this.path}`);
    this.#with('');
  }

  write(figures: string): void {
    writeFileSync(this.path, this.#with(figures));
  }

  #with(figures: string): string {
    return replaceFigures(readFileSync(this.path, 'utf8'), figures, this.#place);
  }
}

let lastCell = '';

/** On a terminal one line that is drawn over; elsewhere a line for each cell. */
function showProgress(what: string, secondsLeft: number): void {
  const text = `${what}; ${formatDuration(secondsLeft * 1000)} left`;
  if (process.stderr.isTTY) {
    process.stderr.write(`\r${text}\x1b[K`);
    return;
  }
  const cell = what.split(':')[0]!;
  if (cell !== lastCell) process.stderr.write(`${text}\n`);
  lastCell = cell;
}

function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
}

export function say(text: string): void {
  clearProgress();
  process.stderr.write(`${text}\n`);
}

/** Prints what would be measured, and the time it takes. @param about further lines */
export function printPlan(ids: readonly string[], seconds: number, about: readonly string[] = []): void {
  const time = formatDuration(seconds * 1000);
  const lines = [...ids, '', ...about, `${ids.length} cells in about ${time}`];
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** A run, and what is made of its result. */
export interface ReportedRun<R> {
  readonly run: (options: BenchRunOptions) => Promise<R>;
  readonly heading: (result: R) => readonly string[];
  readonly tables: (result: R) => readonly Table[];
  readonly place: Place;
  readonly markdown: (result: R) => string;
  /** A further file beside the document. */
  readonly chart?: { readonly name: string; readonly draw: (result: R) => string };
}

/**
 * Runs to the end, whatever comes, and prints or stores what was found.
 * @returns the exit status
 * @throws UsageError when there is no such document; whatever the run throws
 */
export async function runReported<R>(
  { report, json }: { readonly report: string | undefined; readonly json: boolean },
  { run, heading, tables, place, markdown, chart }: ReportedRun<R>,
): Promise<number> {
  const document = report === undefined ? undefined : new ReportDocument(report, place);
  const signals = watchSignals();
  try {
    const result = await run({
      program: fileURLToPath(new URL('../main.js', import.meta.url)),
      repagentVersion: packageVersion(),
      aborted: signals.aborted,
      onProgress: showProgress,
    });
    clearProgress();
    if (document) {
      if (chart) writeFileSync(join(document.folder, chart.name), chart.draw(result));
      document.write(markdown(result));
      say(`written: ${document.path}${chart ? ` and ${chart.name}` : ''}`);
    }
    const text = [...heading(result), '', ...tables(result).map((table) => textTable(table))]
      .join('\n')
      .trimEnd();
    process.stdout.write(json ? `${JSON.stringify(result, null, 2)}\n` : `${text}\n`);
    return 0;
  } finally {
    clearProgress();
    signals.dispose();
  }
}
