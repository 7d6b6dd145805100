// SIGHUP: reads again what may change while clients are connected. The signal only starts a run; what can't be read
// is logged and what was there before stays in force, so a reload never ends the process or a connection.
import { errorMessage, OperationError } from '../../base/errors.ts';
import type { Closeable } from '../../base/lifecycle.ts';
import type { Logger } from '../../base/log.ts';

export class ReloadWatch implements Closeable {
  readonly #logger: Logger;
  readonly #reloads: Array<{ readonly name: string; readonly reload: () => Promise<void> | void }> = [];
  #asked = false;
  #running: Promise<void> | undefined;

  /** @param watches for the signal, from now on; otherwise only `now` starts a run */
  constructor(logger: Logger, watches = true) {
    this.#logger = logger;
    if (watches) process.on('SIGHUP', this.#onSignal);
  }

  /**
   * Adds a part that can be read again. Parts run in the order in which they were added.
   * @param name what it is, for the log
   * @param reload takes the new content into use all at once, or throws and changes nothing
   */
  add(name: string, reload: () => Promise<void> | void): void {
    this.#reloads.push({ name, reload });
  }

  /** As the signal. @returns once it is done */
  async now(): Promise<void> {
    this.#onSignal();
    await this.#running;
  }

  /** Waits for the run that is under way. The signal has its default meaning again. */
  async close(): Promise<void> {
    process.off('SIGHUP', this.#onSignal);
    this.#asked = false;
    await this.#running;
  }

  readonly #onSignal = (): void => {
    this.#asked = true;
    this.#running ??= this.#run();
  };

  /** A signal that comes during a run causes one more, so that the last state of the files is the one that counts. */
  async #run(): Promise<void> {
    // Nothing is done inside the signal's handler.
    await Promise.resolve();
    while (this.#asked) {
      this.#asked = false;
      for (const { name, reload } of this.#reloads) await this.#one(name, reload);
    }
    this.#running = undefined;
  }

  async #one(name: string, reload: () => Promise<void> | void): Promise<void> {
    try {
      await reload();
      this.#logger.info({ what: name }, 'reloaded');
    } catch (error) {
      const hint = error instanceof OperationError ? error.hint : undefined;
      const about = { what: name, err: errorMessage(error), ...(hint !== undefined && { hint }) };
      this.#logger.error(about, 'reload failed; what was in force stays so');
    }
  }
}
