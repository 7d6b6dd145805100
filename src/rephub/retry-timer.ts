// Tries something again after a wait that doubles from failure to failure.

export class RetryTimer {
  readonly #firstMs: number;
  readonly #longestMs: number;
  readonly #again: () => void;
  #waitMs: number;
  #timer: NodeJS.Timeout | undefined;

  /** @param again must not throw */
  constructor(firstMs: number, longestMs: number, again: () => void) {
    this.#firstMs = firstMs;
    this.#longestMs = longestMs;
    this.#again = again;
    this.#waitMs = firstMs;
  }

  get isSet(): boolean {
    return this.#timer !== undefined;
  }

  /** Once more, after the wait. Does nothing while it is set. */
  start(): void {
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#again();
    }, this.#waitMs);
    this.#waitMs = Math.min(this.#waitMs * 2, this.#longestMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** It succeeded: the next wait is the first again. */
  reset(): void {
    this.stop();
    this.#waitMs = this.#firstMs;
  }
}
