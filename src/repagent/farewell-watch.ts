// Waits, within a deadline, for what must have happened before the agent may take its leave of the hub.
import { type Deferred, deferred, within } from '../base/lifecycle.ts';

export class FarewellWatch {
  readonly #isFinished: () => boolean;
  #waiting: Deferred<boolean> | undefined;
  readonly #over = deferred<true>();

  /** @param isFinished whether it has happened */
  constructor(isFinished: () => boolean) {
    this.#isFinished = isFinished;
  }

  /** @returns whether it happened in time; false also when the connection ended first */
  async wait(timeoutMs: number): Promise<boolean> {
    this.#waiting = deferred();
    this.check();
    return (await within(this.#waiting.promise, timeoutMs)) ?? false;
  }

  /** To be called whenever it may have happened. */
  check(): void {
    if (this.#waiting && this.#isFinished()) this.#waiting.resolve(true);
  }

  /** The connection has ended. */
  ended(): void {
    this.#waiting?.resolve(false);
    this.#over.resolve(true);
  }

  /** Waits for the connection's end. */
  async closed(timeoutMs: number): Promise<void> {
    await within(this.#over.promise, timeoutMs);
  }
}
