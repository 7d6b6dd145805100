// How a lag went over the last hour: for each second the longest it was in it. Constant memory, and no timer: between
// two notes a lag can only grow with time, so that what it was meanwhile is known exactly. An unknown lag counts as
// worse than every known one; it must never make a figure look better.

const SECONDS = 3600;
const MINUTE_SECONDS = 60;
const NOT_COVERED = -1;

/** Figures of a window. The longest lag of each second is one sample; null: unknown for that share of the time. */
export interface LagFigures {
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  readonly maxMs: number | null;
  /** How much of the window has been seen, seconds. */
  readonly coveredSeconds: number;
}

export interface LagWindows {
  readonly lastMinute: LagFigures;
  readonly lastHour: LagFigures;
}

export class LagHistory {
  readonly #worst = new Float32Array(SECONDS).fill(NOT_COVERED);
  /** The newest second that was noted. */
  #second: number | undefined;

  /**
   * What the lag is now. To be called before each event that ends or shortens it, or makes it unknown or known.
   * @param lagMs null: unknown, since the last note
   * @param nowMs a clock that only goes forward, as in the other calls
   */
  note(lagMs: number | null, nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    const known = this.#second ?? second - 1;
    for (let at = Math.max(Math.min(known, second), second - SECONDS + 1); at <= second; at += 1) {
      const sinceMs = Math.max(0, nowMs - (at + 1) * 1000);
      const worst = lagMs === null ? Number.POSITIVE_INFINITY : Math.max(0, lagMs - sinceMs);
      const slot = at % SECONDS;
      if (at > known) this.#worst[slot] = worst;
      else if (at === known && this.#second !== undefined)
        this.#worst[slot] = Math.max(this.#worst[slot]!, worst);
    }
    this.#second = Math.max(known, second);
  }

  /** The figures up to the newest note. */
  get windows(): LagWindows {
    return { lastMinute: this.#figures(MINUTE_SECONDS), lastHour: this.#figures(SECONDS) };
  }

  #figures(seconds: number): LagFigures {
    const samples = new Float32Array(seconds);
    let count = 0;
    for (let back = 0; this.#second !== undefined && back < seconds; back += 1) {
      const worst = this.#worst[(this.#second - back + SECONDS) % SECONDS]!;
      if (worst === NOT_COVERED) continue;
      samples[count] = worst;
      count += 1;
    }
    const sorted = samples.subarray(0, count).sort();
    return {
      p50Ms: quantile(sorted, 0.5),
      p99Ms: quantile(sorted, 0.99),
      maxMs: quantile(sorted, 1),
      coveredSeconds: count,
    };
  }
}

/** The nearest rank. */
function quantile(sorted: Float32Array, share: number): number | null {
  const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  return value === undefined || !Number.isFinite(value) ? null : Math.round(value);
}
