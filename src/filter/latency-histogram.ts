// Counts durations in buckets that double from 1 microsecond up: a fixed few bytes, whatever the load.

/** The last bucket holds everything from 2^(BUCKETS - 2) microseconds (about 18 minutes) up. */
const BUCKETS = 32;

export class LatencyHistogram {
  readonly #counts = new Array<number>(BUCKETS).fill(0);
  #count = 0;
  #totalUs = 0;
  #maxUs = 0;

  get count(): number {
    return this.#count;
  }

  get meanUs(): number {
    return this.#count === 0 ? 0 : this.#totalUs / this.#count;
  }

  get maxUs(): number {
    return this.#maxUs;
  }

  add(durationUs: number): void {
    const bucket = durationUs < 1 ? 0 : Math.min(BUCKETS - 1, Math.floor(Math.log2(durationUs)) + 1);
    this.#counts[bucket]! += 1;
    this.#count += 1;
    this.#totalUs += durationUs;
    if (durationUs > this.#maxUs) this.#maxUs = durationUs;
  }

  /**
   * An upper bound of the duration that a share of all calls stayed within, microseconds; at most twice the true one.
   * @param share 0 to 1
   */
  quantileUs(share: number): number {
    const wanted = share * this.#count;
    let seen = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      seen += this.#counts[bucket]!;
      if (seen >= wanted && seen > 0) return Math.min(this.#maxUs, upperUs(bucket));
    }
    return 0;
  }

  /** The buckets that are not empty: `lessThanUs` is the bound, null for the last one, which has none. */
  buckets(): Array<{ lessThanUs: number | null; count: number }> {
    const list: Array<{ lessThanUs: number | null; count: number }> = [];
    for (const [bucket, count] of this.#counts.entries()) {
      if (count > 0) list.push({ lessThanUs: bucket === BUCKETS - 1 ? null : upperUs(bucket), count });
    }
    return list;
  }
}

function upperUs(bucket: number): number {
  return 2 ** bucket;
}
