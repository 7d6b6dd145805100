// Keeps the record of a replica from being much older than what is written to its image, since of a hub that was killed an
// image that is much younger than its record was changed by someone else. What is idle is not written: a record is
// renewed because its image changes, never because time passes.

/** Above that it is renewed while the image changes, ms. */
const FOLLOW_MS = 5000;

/** Above that it is renewed before the image changes, ms. */
const SIGN_OF_LIFE_MS = 10_000;

export class RecordAge {
  readonly #renew: () => Promise<boolean>;
  #renewing: Promise<void> | undefined;
  #failedAtMs = Number.NEGATIVE_INFINITY;

  /** @param renew writes the record anew; answers whether it could, and never rejects */
  constructor(renew: () => Promise<boolean>) {
    this.#renew = renew;
  }

  /**
   * The image is about to change.
   * @param writtenAtMs when its record was written, Unix milliseconds
   * @returns what must have ended before it does, if anything; never rejects
   */
  beforeChange(writtenAtMs: number): Promise<void> | undefined {
    const ageMs = Date.now() - writtenAtMs;
    // A clock that was set back would make the image look rolled back.
    if (ageMs >= 0 && ageMs <= FOLLOW_MS) return undefined;
    // Replication goes on where no record can be kept.
    if (performance.now() - this.#failedAtMs < FOLLOW_MS) return undefined;
    this.#renewing ??= this.#begin();
    return ageMs >= 0 && ageMs <= SIGN_OF_LIFE_MS ? undefined : this.#renewing;
  }

  async #begin(): Promise<void> {
    if (!(await this.#renew())) this.#failedAtMs = performance.now();
    this.#renewing = undefined;
  }
}
