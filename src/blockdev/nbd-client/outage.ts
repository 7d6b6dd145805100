// Times an outage: when to dial again, and when those who wait have waited long enough. It only keeps time; what
// follows is told through its two callbacks.
import { type BackoffOptions, backoffMs } from './backoff.ts';

/** How a connection was, seen from its end. */
export interface ConnectionLife {
  /** Milliseconds since its handshake ended; undefined when it didn't get there. */
  readonly upMs: number | undefined;
  /** Replies that it brought. */
  readonly answers: number;
  /** Whether anyone waits for an answer. */
  readonly wanted: boolean;
}

/** A connection that lived this long was good, even if nothing was asked of it. */
const GOOD_LIFE_MS = 10_000;

export class Outage {
  readonly #backoff: BackoffOptions;
  readonly #limitMs: number;
  readonly #giveUp: () => void;
  #attempts = 0;
  #sinceMs: number | undefined;
  #overdue = false;
  #retryTimer: NodeJS.Timeout | undefined;
  #limitTimer: NodeJS.Timeout | undefined;

  /**
   * @param limitMs how long requests wait for the server, milliseconds
   * @param giveUp called when they have, and again at each further loss
   */
  constructor(backoff: BackoffOptions, limitMs: number, giveUp: () => void) {
    this.#backoff = backoff;
    this.#limitMs = limitMs;
    this.#giveUp = giveUp;
  }

  get attempts(): number {
    return this.#attempts;
  }

  /** The limit has passed, and the server isn't back. */
  get overdue(): boolean {
    return this.#overdue;
  }

  /** A connection ended, or did not come about. */
  began(life: ConnectionLife): void {
    const wasUp = life.upMs !== undefined;
    const wasGood = wasUp && (life.answers > 0 || life.upMs > GOOD_LIFE_MS);
    if (wasGood) this.#attempts = 0;
    // A server that accepts connections, and then answers nothing that is asked, has not come back.
    if (wasGood || (wasUp && !life.wanted)) this.#sinceMs = undefined;
    const now = performance.now();
    this.#sinceMs ??= now;
    clearTimeout(this.#limitTimer);
    if (this.#overdue) {
      this.#giveUp();
      return;
    }
    const leftMs = Math.max(0, this.#sinceMs + this.#limitMs - now);
    this.#limitTimer = setTimeout(() => {
      this.#overdue = true;
      this.#giveUp();
    }, leftMs);
  }

  /** Calls `retry` when the next attempt is due. */
  pause(retry: () => void): void {
    this.#retryTimer = setTimeout(retry, backoffMs(this.#attempts, this.#backoff, Math.random()));
    this.#attempts += 1;
  }

  /** Requests flow. */
  ended(): void {
    this.#overdue = false;
    clearTimeout(this.#limitTimer);
  }

  stop(): void {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#limitTimer);
  }
}
