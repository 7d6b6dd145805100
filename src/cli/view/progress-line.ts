// One line that is drawn over itself while something runs. On anything but a terminal it draws nothing.
import { formatBytes, formatDuration } from '../../base/size.ts';
import { bar, type Look, lookOf, shorten } from './terminal.ts';

const BAR_WIDTH = 24;
const DRAW_INTERVAL_MS = 80;

export interface Progress {
  readonly done: number;
  readonly total: number;
  /** Bytes per second; undefined leaves rate and time left out. */
  readonly rate?: number | undefined;
}

/** `label  ████░░░░  52%  12 MiB of 24 MiB  3 MiB/s  4s left`. */
export function progressText(label: string, progress: Progress, look: Look): string {
  const { done, total, rate } = progress;
  const percent = total > 0 ? (100 * done) / total : 100;
  const parts = [
    label,
    bar(percent, BAR_WIDTH, look),
    `${Math.floor(percent)}%`.padStart(4),
    `${formatBytes(done)} of ${formatBytes(total)}`,
  ];
  if (rate !== undefined && rate > 0) {
    parts.push(`${formatBytes(rate)}/s`, `${formatDuration((1000 * (total - done)) / rate)} left`);
  }
  return shorten(parts.join('  '), look.columns - 1, look);
}

export class ProgressLine {
  readonly #stream: NodeJS.WriteStream;
  #lastDrawn = Number.NEGATIVE_INFINITY;
  #visible = false;

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream;
  }

  get look(): Look {
    return lookOf(this.#stream);
  }

  /** Draws at most a dozen times a second; `last` is drawn in any case. */
  update(label: string, progress: Progress, last = false): void {
    if (!this.#stream.isTTY) return;
    const now = performance.now();
    if (!last && now - this.#lastDrawn < DRAW_INTERVAL_MS) return;
    this.#lastDrawn = now;
    this.#visible = true;
    this.#stream.write(`\r${progressText(label, progress, this.look)}\x1b[K`);
  }

  /** Leaves the line as it is and goes to the next. */
  keep(): void {
    if (this.#visible) this.#stream.write('\n');
    this.#visible = false;
  }

  /** Takes the line away. */
  clear(): void {
    if (this.#visible) this.#stream.write('\r\x1b[K');
    this.#visible = false;
  }
}
