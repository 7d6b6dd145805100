// When a volume that fell back to its dirty map may go back to the stream: once there is room for a good while, and not
// at once if it just did. Without that a hub that is a little too slow would make it change twice a second between
// degraded and protected, and read everything that was written each time.

/** Of the queue, what may be full at most when the stream goes on. */
export const RESUME_SHARE = 0.5;

export interface HoldTuning {
  /** A stream that overflows again after a shorter time was taken up too early, ms. */
  readonly steadyMs: number;
  /** How long it then stays off at least, doubled each time, ms. The first overflow holds nothing. */
  readonly firstMs: number;
  readonly longestMs: number;
}

export const DEFAULT_HOLD: HoldTuning = { steadyMs: 10_000, firstMs: 250, longestMs: 8000 };

export class OverflowHold {
  readonly #tuning: HoldTuning;
  readonly #nowMs: () => number;
  #resumedAtMs = Number.NEGATIVE_INFINITY;
  #untilMs = Number.NEGATIVE_INFINITY;
  #holdMs = 0;

  /** @param nowMs a clock that only goes forward */
  constructor(tuning: HoldTuning = DEFAULT_HOLD, nowMs: () => number = () => performance.now()) {
    this.#tuning = tuning;
    this.#nowMs = nowMs;
  }

  /** The queue is full. */
  overflowed(): void {
    const { steadyMs, firstMs, longestMs } = this.#tuning;
    const nowMs = this.#nowMs();
    const wasSteady = nowMs - this.#resumedAtMs >= steadyMs;
    this.#holdMs = wasSteady ? 0 : Math.min(longestMs, Math.max(firstMs, 2 * this.#holdMs));
    this.#untilMs = nowMs + this.#holdMs;
  }

  /** The stream goes on. */
  resumed(): void {
    this.#resumedAtMs = this.#nowMs();
  }

  /** There will be no more changes that could flood it: nothing is waited for. */
  release(): void {
    this.#untilMs = Number.NEGATIVE_INFINITY;
  }

  /** How long the stream has to stay off yet, ms; 0: it may go on. */
  get waitMs(): number {
    return Math.max(0, this.#untilMs - this.#nowMs());
  }
}
