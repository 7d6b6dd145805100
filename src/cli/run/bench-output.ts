// What every kind of bench run shares: its progress on standard error, and the document that gets its figures.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../base/errors.ts';
import { formatDuration } from '../../base/size.ts';
import { type Place, replaceFigures } from '../../bench/report-document.ts';

const DOCUMENT_NAME = 'PERFORMANCE.md';

/** The program that the bench starts as server and hub: this one. */
export function ownProgramPath(): string {
  return fileURLToPath(new URL('../main.js', import.meta.url));
}

/** A document with a place for figures. */
export class ReportDocument {
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
export function showProgress(what: string, secondsLeft: number): void {
  const text = `${what}; ${formatDuration(secondsLeft * 1000)} left`;
  if (process.stderr.isTTY) {
    process.stderr.write(`\r${text}\x1b[K`);
    return;
  }
  const cell = what.split(':')[0]!;
  if (cell !== lastCell) process.stderr.write(`${text}\n`);
  lastCell = cell;
}

export function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
}

export function say(text: string): void {
  clearProgress();
  process.stderr.write(`${text}\n`);
}
