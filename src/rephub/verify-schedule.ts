// Verifies every replica now and then, by itself: one at a time, the one that waits longest first, and only while it is
// protected. It must never make a replica worse, nor keep the hub busy with what can't be finished.
import { errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

/** How often it looks for one that is due, ms; more often when replicas are verified more often than that. */
const LOOK_MS = 60_000;

/** What could not be verified is not tried again before, ms. */
const RETRY_MS = 300_000;

/** A replica, as the schedule sees it. */
export interface Verifiable {
  readonly volumeName: string;
  /** It may be verified now. */
  readonly isProtected: boolean;
  /** When it was found equal, or its differences were told, Unix milliseconds; 0: never. */
  readonly verifiedAtMs: number;
}

export interface VerifyScheduleOptions<T extends Verifiable> {
  readonly everyMs: number;
  readonly replicas: () => Iterable<T>;
  /** @throws when it can't be finished */
  readonly verify: (replica: T) => Promise<void>;
  readonly logger: Logger;
}

export class VerifySchedule<T extends Verifiable> {
  readonly #options: VerifyScheduleOptions<T>;
  readonly #timer: NodeJS.Timeout;
  /** By a clock that nobody sets: one that is set back must not put the next attempt off. */
  readonly #notBefore = new WeakMap<T, number>();
  #isBusy = false;

  constructor(options: VerifyScheduleOptions<T>) {
    this.#options = options;
    this.#timer = setInterval(() => void this.#look(), Math.min(LOOK_MS, options.everyMs / 4));
    this.#timer.unref();
  }

  /** Begins nothing any more. */
  close(): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#isBusy) return;
    const due = this.#mostOverdue(Date.now());
    if (!due) return;
    const { everyMs, verify, logger } = this.#options;
    this.#isBusy = true;
    // Whatever comes of it, others have their turn first.
    this.#notBefore.set(due, performance.now() + Math.min(RETRY_MS, everyMs));
    try {
      await verify(due);
    } catch (error) {
      const about = { volume: due.volumeName, reason: errorMessage(error) };
      logger.warn(about, 'the scheduled verification could not be finished; it is tried again');
    } finally {
      this.#isBusy = false;
    }
  }

  #mostOverdue(nowMs: number): T | undefined {
    let found: T | undefined;
    for (const replica of this.#options.replicas()) {
      if (!replica.isProtected || performance.now() < (this.#notBefore.get(replica) ?? 0)) continue;
      // A time in the future is of a clock that was wrong: it must not keep the replica from being verified.
      const isDue = replica.verifiedAtMs > nowMs || nowMs - replica.verifiedAtMs >= this.#options.everyMs;
      if (isDue && (!found || replica.verifiedAtMs < found.verifiedAtMs)) found = replica;
    }
    return found;
  }
}
