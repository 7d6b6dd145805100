// Makes void what the file of a dirty map says, for good: a map that misses a bit is worse than none. Whoever waits for
// it is told in the end either way, so that a disk that takes nothing at all stalls no guest; it is tried again later.
import type { SidecarFile } from './sidecar-file.ts';

/** In a row: a sync may fail for what was written before the file was emptied, and the next one does not. */
const TRIES = 3;

export class SidecarVoid {
  readonly #file: SidecarFile;
  /** Nobody will ever read there what the file said. */
  #isDurable = false;
  #running: Promise<void> | undefined;

  constructor(file: SidecarFile) {
    this.#file = file;
  }

  /** As far as the kernel is concerned: enough for whoever reads the file after this process. Never throws. */
  begin(): void {
    try {
      this.#file.empty();
    } catch {
      // Tried again, and told then.
    }
  }

  /** Not even a power failure brings back what the file said. @throws Error with `code`: it may, after all */
  finish(): Promise<void> {
    this.#running ??= this.#finish().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #finish(): Promise<void> {
    for (let tries = 1; !this.#isDurable; tries += 1) {
      try {
        this.#file.empty();
        await this.#file.sync();
        this.#isDurable = true;
      } catch (error) {
        if (tries === TRIES) throw error;
      }
    }
  }
}
