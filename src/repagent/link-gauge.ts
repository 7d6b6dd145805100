// How fast the connection takes bytes while it has as many as it can take: only then it is the link that is measured, and
// not what there was to send.

/** Evidence that makes a figure, and that is forgotten by half, ms. */
const ENOUGH_MS = 100;
const MEMORY_MS = 2000;

export class LinkGauge {
  #busyMs = 0;
  #busyBytes = 0;
  #lastMs = 0;
  #lastTaken = 0;
  #wasBusy = false;

  /**
   * To be called before and after each send.
   * @param givenBytes all that the connection was given so far
   * @param unsentBytes what it has not taken of that
   */
  look(givenBytes: number, unsentBytes: number, nowMs: number): void {
    const taken = givenBytes - unsentBytes;
    const isBusy = unsentBytes > 0;
    if (this.#wasBusy && isBusy) {
      this.#busyMs += nowMs - this.#lastMs;
      this.#busyBytes += taken - this.#lastTaken;
      if (this.#busyMs > MEMORY_MS) {
        this.#busyMs /= 2;
        this.#busyBytes /= 2;
      }
    }
    this.#wasBusy = isBusy;
    this.#lastMs = nowMs;
    this.#lastTaken = taken;
  }

  /** Undefined while it was not busy for long enough. */
  get bytesPerSecond(): number | undefined {
    return this.#busyMs >= ENOUGH_MS ? (this.#busyBytes * 1000) / this.#busyMs : undefined;
  }
}
