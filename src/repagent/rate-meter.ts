// How many bytes there were a second, over the last whole seconds, and in all. Knows no clock.

/** Seconds over which the rate is taken. */
const METER_SECONDS = 4;

export class RateMeter {
  totalBytes = 0;
  readonly #firstSecond: number;
  /** One for each second, and the one that has begun. */
  readonly #cells = new Float64Array(METER_SECONDS + 1);
  #second: number;

  /** @param nowMs a clock that only goes forward, as in the other calls */
  constructor(nowMs: number) {
    this.#firstSecond = Math.floor(nowMs / 1000);
    this.#second = this.#firstSecond;
  }

  note(bytes: number, nowMs: number): void {
    this.#advance(nowMs);
    this.totalBytes += bytes;
    this.#cells[this.#second % this.#cells.length]! += bytes;
  }

  /** Null before a whole second has passed. */
  bytesPerSecond(nowMs: number): number | null {
    this.#advance(nowMs);
    const seconds = Math.min(METER_SECONDS, this.#second - this.#firstSecond);
    if (seconds === 0) return null;
    let bytes = 0;
    for (let ago = 1; ago <= seconds; ago += 1) {
      bytes += this.#cells[(this.#second - ago) % this.#cells.length]!;
    }
    return Math.round(bytes / seconds);
  }

  #advance(nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    const passed = Math.min(this.#cells.length, second - this.#second);
    for (let i = 0; i < passed; i += 1) this.#cells[(second - i) % this.#cells.length] = 0;
    this.#second = Math.max(this.#second, second);
  }
}
