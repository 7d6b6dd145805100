// Tries something again after a wait that doubles from failure to failure, and scatters: what failed together, as all
// replicas of one full disk do, must not come back in one moment.

/** Of each wait, what is left to chance. */
const SCATTER = 0.25;

export class RetryTimer {
  readonly #firstMs: number;
  readonly #longestMs: number;
  readonly #again: () => void;
  readonly #random: () => number;
  #waitMs: number;
  #timer: NodeJS.Timeout | undefined;

  /** @param again must not throw @param random from 0 to below 1 */
  constructor(firstMs: number, longestMs: number, again: () => void, random = Math.random) {
    this.#firstMs = firstMs;
    this.#longestMs = longestMs;
    this.#again = again;
    this.#random = random;
    this.#waitMs = firstMs;
  }

  get isSet(): boolean {
    return this.#timer !== undefined;
  }

  /** Once more, after the wait. Does nothing while it is set. */
  start(): void {
    if (this.#timer) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#again();
      },
      this.#waitMs * (1 - SCATTER * this.#random()),
    );
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
