// Decides whether a kind of call is still worth doing in place. The page cache answers in microseconds, the disk
// in milliseconds, and a synchronous call on a cold disk stalls every client. The event loop must never be lent to
// a device that has shown to be slow: its calls go to the thread pool until they are quick there, then one is
// tried in place again.

/** Time that every call may take, milliseconds. */
const ALLOWED_CALL_MS = 0.05;
/** Time that each byte may take on top: 1 GB/s, what copying out of the page cache reaches on a slow machine. */
const ALLOWED_BYTE_MS = 1e-6;
/** Excess that is borne before the calls move away. Above a scheduler's time slice: being preempted is not a slow disk. */
const MAX_DEBT_MS = 6;
const FIRST_AWAY_MS = 5;
const LONGEST_AWAY_MS = 1000;
/** A call on the thread pool that took longer says that one in place would stall: none is tried. Milliseconds. */
const MAX_POOL_CALL_MS = 4;
/** So many calls in a row within the allowance make the device trusted: then only every fourth one is measured. */
const TRUSTED_AFTER = 256;
const TRUSTED_SAMPLE = 4;

/** What {@link SyncBudget.start} answers for a call that isn't measured. */
const NOT_MEASURED = -1;

export class SyncBudget {
  readonly #now: () => number;
  #debtMs = 0;
  #fastRun = 0;
  #calls = 0;
  #away = false;
  #backAt = 0;
  #poolIsFast = false;
  #awayMs = FIRST_AWAY_MS;

  /** @param now a clock in milliseconds, with fractions */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether calls belong to the thread pool at present (one is tried in place now and then). */
  get away(): boolean {
    return this.#away;
  }

  /** Whether the next call may be done in place. */
  maySync(): boolean {
    return !this.#away || (this.#poolIsFast && this.#now() >= this.#backAt);
  }

  /** To be called just before a call in place. @returns what {@link finish} wants to have */
  start(): number {
    if (this.#fastRun >= TRUSTED_AFTER && !this.#away) {
      this.#calls += 1;
      if (this.#calls < TRUSTED_SAMPLE) return NOT_MEASURED;
      this.#calls = 0;
    }
    return this.#now();
  }

  /** To be called just after it. @param length bytes that the call moved */
  finish(startedAt: number, length: number): void {
    if (startedAt === NOT_MEASURED) return;
    const now = this.#now();
    const excessMs = now - startedAt - ALLOWED_CALL_MS - length * ALLOWED_BYTE_MS;
    this.#fastRun = excessMs > 0 ? 0 : this.#fastRun + 1;
    if (this.#away) {
      if (excessMs > 0) this.#goAway(now);
      else this.#comeBack();
      return;
    }
    this.#debtMs = Math.max(0, this.#debtMs + excessMs);
    if (this.#debtMs > MAX_DEBT_MS) this.#goAway(now);
    else if (this.#fastRun === TRUSTED_AFTER) this.#awayMs = FIRST_AWAY_MS;
  }

  /** To be called just before a call on the thread pool. @returns what {@link finishInPool} wants to have */
  startInPool(): number {
    return this.#away ? this.#now() : NOT_MEASURED;
  }

  /** To be called when it has ended. @param length bytes that the call moved */
  finishInPool(startedAt: number, length: number): void {
    if (startedAt === NOT_MEASURED || !this.#away) return;
    this.#poolIsFast = this.#now() - startedAt <= MAX_POOL_CALL_MS + length * ALLOWED_BYTE_MS;
  }

  #goAway(now: number): void {
    this.#away = true;
    this.#poolIsFast = false;
    this.#backAt = now + this.#awayMs;
    this.#awayMs = Math.min(this.#awayMs * 2, LONGEST_AWAY_MS);
  }

  #comeBack(): void {
    this.#away = false;
    this.#debtMs = 0;
  }
}
