// A limit on what may be used a second. Unused allowance is saved up to a limit; a single use may go into debt, so that
// one larger than the bucket still gets through, and is paid for by those after it. Knows no timer and no clock.

export class TokenBucket {
  #perSecond: number;
  #capacity: number;
  #tokens: number;
  #filledAtMs: number;

  /**
   * @param perSecond above 0
   * @param burstMs how long unused allowance is saved up, milliseconds
   */
  constructor(perSecond: number, burstMs: number, nowMs: number) {
    this.#perSecond = perSecond;
    this.#capacity = (perSecond * burstMs) / 1000;
    this.#tokens = this.#capacity;
    this.#filledAtMs = nowMs;
  }

  /** Another limit from now on. What is saved up is kept as far as it fits; a debt is kept. */
  change(perSecond: number, burstMs: number, nowMs: number): void {
    this.#fill(nowMs);
    this.#perSecond = perSecond;
    this.#capacity = (perSecond * burstMs) / 1000;
    this.#tokens = Math.min(this.#tokens, this.#capacity);
  }

  /** Until something may be taken, milliseconds; 0 when it may be now. */
  waitMs(nowMs: number): number {
    this.#fill(nowMs);
    return this.#tokens >= 0 ? 0 : (-this.#tokens * 1000) / this.#perSecond;
  }

  take(amount: number): void {
    this.#tokens -= amount;
  }

  #fill(nowMs: number): void {
    const elapsedMs = Math.max(0, nowMs - this.#filledAtMs);
    this.#filledAtMs = nowMs;
    this.#tokens = Math.min(this.#capacity, this.#tokens + (elapsedMs * this.#perSecond) / 1000);
  }
}
