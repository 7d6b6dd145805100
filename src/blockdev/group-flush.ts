// Makes a file durable for many callers with few syncs: those that arrive while one runs share the next. A sync
// that failed is never retried as if nothing had happened: the kernel drops the pages that it couldn't write, and
// a later sync would report a success that is none.
import { BlockError, errorMessage } from '../base/errors.ts';

export class GroupFlush {
  readonly #sync: () => Promise<void>;
  readonly #onFailure: (error: unknown) => void;
  /** Counts changes; compared, so that a flush with nothing new to cover costs nothing. */
  #changes = 1;
  #durableChanges = 0;
  #runningChanges = 0;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failure: BlockError | undefined;

  /**
   * @param sync makes durable everything that was written before it is called
   * @param onFailure told once, when the file can no longer be trusted
   */
  constructor(sync: () => Promise<void>, onFailure: (error: unknown) => void = () => {}) {
    this.#sync = sync;
    this.#onFailure = onFailure;
  }

  /** To be called when a change has been carried out (or has failed halfway), never before. */
  markChanged(): void {
    this.#changes += 1;
  }

  /** Makes every change marked so far durable. @throws BlockError, for ever after the first failure */
  flush(): Promise<void> | undefined {
    if (this.#failure) throw this.#failure;
    if (this.#durableChanges === this.#changes) return undefined;
    // One that has not begun covers everything marked until it does.
    if (this.#next) return this.#next;
    if (!this.#running) return this.#start();
    if (this.#runningChanges === this.#changes) return this.#running;
    this.#next = this.#running.then(() => {
      this.#next = undefined;
      return this.#start();
    });
    return this.#next;
  }

  #start(): Promise<void> {
    this.#runningChanges = this.#changes;
    this.#running = this.#run(this.#changes);
    return this.#running;
  }

  async #run(changes: number): Promise<void> {
    try {
      await this.#sync();
      this.#durableChanges = changes;
    } catch (error) {
      this.#failure = new BlockError(
        'EIO',
        `flush failed, what was written is lost: ${errorMessage(error)}`,
        {
          cause: error,
        },
      );
      this.#onFailure(error);
      throw this.#failure;
    } finally {
      this.#running = undefined;
    }
  }
}
