// Bounds how many lines of one kind are logged, for events that strangers can cause at will. It counts what it leaves
// out, and the next line that it lets through says so.

export interface LogLimitOptions {
  readonly maxLines: number;
  readonly intervalMs: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
}

export class LogLimit {
  readonly #maxLines: number;
  readonly #intervalMs: number;
  readonly #now: () => number;
  #endsAt = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #leftOut = 0;

  constructor({ maxLines, intervalMs, now = () => performance.now() }: LogLimitOptions) {
    this.#maxLines = maxLines;
    this.#intervalMs = intervalMs;
    this.#now = now;
  }

  /** @returns what to add to the line, such as how many like it were left out; undefined to leave this one out too */
  admit(): { readonly leftOut?: number } | undefined {
    const now = this.#now();
    if (now >= this.#endsAt) {
      this.#endsAt = now + this.#intervalMs;
      this.#lines = 0;
    }
    if (this.#lines >= this.#maxLines) {
      this.#leftOut += 1;
      return undefined;
    }
    this.#lines += 1;
    if (this.#leftOut === 0) return {};
    const leftOut = this.#leftOut;
    this.#leftOut = 0;
    return { leftOut };
  }
}
