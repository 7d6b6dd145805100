// The file of a dirty map, which tells the truth or nothing: once it has failed to take a write or a sync it is void, for
// good. Whoever waits for it goes on in the end either way: a disk that takes nothing at all stalls no guest.
import { errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { SidecarFile } from './sidecar-file.ts';
import { SidecarVoid } from './sidecar-void.ts';

export interface KeptFileOptions {
  readonly file: SidecarFile;
  readonly volumeName: string;
  /** What was written is made durable before the data that waits for it. */
  readonly exact: boolean;
  readonly logger: Logger;
  /** The file can't be written any more, or can't even be emptied. */
  readonly onBroken: (error: unknown) => void;
  /** All that was written before is durable. What it throws breaks the file. */
  readonly onSynced: () => void;
}

export class KeptFile {
  readonly #options: KeptFileOptions;
  readonly #file: SidecarFile;
  readonly #void: SidecarVoid;
  #isBroken = false;
  /** It is broken, and couldn't be made void so far. */
  #isStuck = false;
  /** It is closed: there is nothing to write to. */
  #isReleased = false;
  /** Something has to be durable before the next data; and the sync that makes it so. */
  #unsynced = false;
  #syncing: Promise<void> | undefined;

  constructor(options: KeptFileOptions) {
    this.#options = options;
    this.#file = options.file;
    this.#void = new SidecarVoid(options.file);
  }

  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Never throws. */
  write(data: Buffer, position: number): void {
    if (this.#isBroken || this.#isReleased) return;
    try {
      this.#file.write(data, position);
      this.touched();
    } catch (error) {
      this.#break(error);
    }
  }

  /** Does something else with the file, unless it is broken or closed. Never throws. */
  attempt(action: () => void): void {
    if (this.#isBroken || this.#isReleased) return;
    try {
      action();
    } catch (error) {
      this.#break(error);
    }
  }

  /** There is something that the next data has to wait for, where that is wanted. */
  touched(): void {
    if (this.#options.exact) this.#unsynced = true;
  }

  /** The next data has to wait for what is there now, whatever is wanted else. */
  hold(): void {
    this.#unsynced = true;
    void this.#durable();
  }

  /** What has to be waited for before data may be written that needs what is in the file. Never rejects. */
  durable(): Promise<void> | undefined {
    if (!this.#unsynced && !this.#syncing) return undefined;
    return this.#durable();
  }

  /** Makes durable what was written, or else that it is void. Never rejects. */
  async sync(): Promise<void> {
    if (this.#isReleased) return;
    try {
      if (!this.#isBroken) await this.#file.sync();
      if (!this.#isReleased) this.#options.onSynced();
    } catch (error) {
      if (!this.#isBroken) this.#break(error);
    }
    // Whoever waits goes on as if it were kept: not even a power failure may bring back what the file said before.
    if (this.#isBroken) await this.#makeVoid();
  }

  /** Tries again to empty a file that couldn't be emptied. */
  retry(): void {
    if (this.#isStuck) void this.#makeVoid();
  }

  /** Closes the file. Nothing is written any more. */
  close(): void {
    this.#isReleased = true;
    this.#file.close();
  }

  /** A map that misses a bit is worse than none: what the file says must not be believed any more. */
  #break(error: unknown): void {
    const { volumeName: volume, logger, onBroken } = this.#options;
    this.#isBroken = true;
    this.touched();
    this.#void.begin();
    logger.error(
      { volume, reason: errorMessage(error) },
      'the dirty map cannot be kept in its file; if this agent is killed, the whole volume will be compared',
    );
    onBroken(error);
    void this.#makeVoid();
  }

  /** One sync at a time; whoever comes while one runs waits for the next, which covers it. */
  async #durable(): Promise<void> {
    while (this.#syncing) await this.#syncing;
    // A sync that fails empties the file, and that has to be durable too.
    while (this.#unsynced) {
      this.#unsynced = false;
      this.#syncing = this.sync();
      try {
        await this.#syncing;
      } finally {
        this.#syncing = undefined;
      }
    }
  }

  /** Never rejects: what can't be done is told, and tried again from time to time. */
  async #makeVoid(): Promise<void> {
    if (this.#isReleased) return;
    const { logger, volumeName: volume, onBroken } = this.#options;
    try {
      await this.#void.finish();
      if (this.#isStuck) logger.info({ volume }, 'the file of the dirty map is empty at last');
      this.#isStuck = false;
    } catch (error) {
      if (this.#isStuck) return;
      this.#isStuck = true;
      const reason = `it can be neither written nor emptied (${errorMessage(error)}): remove it before the agent is started again`;
      logger.fatal({ volume, reason }, "the dirty map can't be kept in its file");
      onBroken(new Error(reason));
    }
  }
}
