// A replica's store that can be put back: while the image is no state of its volume, what it held when it was one is kept
// in an undo log before it is overwritten. The log is dropped when the image is a state of the volume again, and durable.
//
// Why undo and not redo: the image is written in place at once, so that the replica is complete the moment the last
// read is; going back, which hardly ever happens, is what has to be worked for. And nothing is kept twice: what an
// initial sync fills, or what did not change, costs nothing.
import { BlockError, errorMessage, OperationError, toBlockError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { Mutation } from '../blockdev/mutation.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { ReplicaStore, UndoStatus } from './replica-store.ts';
import type { UndoPlace } from './undo-file.ts';
import { UndoFullError, UndoLog, type UndoLogOptions } from './undo-log.ts';
import { readContent } from './undo-reader.ts';

/** What to do when the log is full: wait for room, changing nothing, or go on without a way back. */
export type WhenUndoFull = 'hold' | 'release';

export interface UndoStoreOptions {
  readonly place: UndoPlace;
  /** The image, as its log knows it. */
  readonly image: string;
  readonly volumeName: string;
  /** Whether what would be put back is older than what the agent relies on. */
  readonly isOutdated: (point: RecoveryPoint) => boolean;
  /** Most bytes of the log; 0: none is kept. */
  readonly maxBytes: number;
  readonly whenFull: WhenUndoFull;
  readonly logger: Logger;
}

export class UndoStore implements ReplicaStore {
  readonly #inner: ReplicaStore;
  readonly #options: UndoStoreOptions;
  #log: UndoLog | undefined;
  /** The point that the newest batch came with, and the one whose log was dropped last. */
  #latest: RecoveryPoint | undefined;
  #dropped: RecoveryPoint | undefined;
  #appending: Promise<unknown> = Promise.resolve();
  #protecting: Promise<unknown> = Promise.resolve();
  #committing: Promise<unknown> = Promise.resolve();
  #dropping: { readonly point: RecoveryPoint | undefined; readonly done: Promise<void> } | undefined;

  private constructor(inner: ReplicaStore, options: UndoStoreOptions) {
    this.#inner = inner;
    this.#options = options;
  }

  /**
   * @param inner becomes the new one's, unless this throws
   * @throws OperationError when there is a log that is damaged, or that has begun to be put back
   */
  static async open(inner: ReplicaStore, options: UndoStoreOptions): Promise<UndoStore> {
    const store = new UndoStore(inner, options);
    await store.#load();
    return store;
  }

  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }

  get undo(): UndoStatus {
    const log = this.#log;
    if (!log) return { state: 'none' };
    if (log.state === 'open') return { state: 'open', point: log.head.point, bytes: log.bytes };
    return { state: 'givenUp', reason: log.reason };
  }

  append(batch: readonly Mutation[], point?: RecoveryPoint | null): MaybePromise<void> {
    const begins = point && point !== this.#dropped ? point : undefined;
    if (begins) this.#latest = begins;
    if (!this.#log && !begins) return this.#inner.append(batch);
    const appending = this.#append(batch, begins);
    this.#appending = appending.catch(() => undefined);
    return appending;
  }

  async commit(settles = false): Promise<void> {
    const latest = this.#latest;
    const committing = this.#inner.commit();
    this.#committing = committing.catch(() => undefined);
    await committing;
    // A newer point came meanwhile: the image is on its way again, and the log goes on as it began.
    if (!settles || !this.#log || this.#latest !== latest) return;
    const done = this.#drop(this.#log);
    this.#dropping = { point: latest, done };
    try {
      await done;
      this.#dropped = latest;
    } finally {
      this.#dropping = undefined;
    }
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#inner.read(offset, target);
  }

  grow(sizeBytes: number): Promise<void> {
    return this.#inner.grow(sizeBytes);
  }

  async close(): Promise<void> {
    await this.#appending;
    await this.#dropping?.done.catch(() => undefined);
    const log = this.#log;
    this.#log = undefined;
    try {
      await log?.close();
    } finally {
      await this.#inner.close();
    }
  }

  get #logOptions(): UndoLogOptions {
    const { place, maxBytes } = this.#options;
    return { place, maxBytes, readOld: (offset, target) => this.#inner.read(offset, target) };
  }

  async #load(): Promise<void> {
    const { place, image, volumeName, isOutdated, logger } = this.#options;
    const file = await place.open();
    if (!file) return;
    try {
      const content = await readContent(file, place.path);
      if (content.state === 'recovering') {
        throw new OperationError(`the image of ${volumeName} has begun to be put back and is not whole`, {
          hint: 'finish that first: repagent recover',
        });
      }
      const isForeign = content.head.image !== image;
      if (isForeign || isOutdated(content.head.point)) {
        const why = isForeign ? 'it belongs to another image' : 'the replica has been further since';
        logger.warn({ volume: volumeName, path: place.path, why }, 'an undo log was set aside');
        await file.close();
        await place.setAside();
        return;
      }
      this.#log = await UndoLog.load(this.#logOptions, file, content, this.#inner.sizeBytes);
    } catch (error) {
      await file.close().catch(() => undefined);
      throw error;
    }
  }

  async #append(batch: readonly Mutation[], point: RecoveryPoint | undefined): Promise<void> {
    // The log that is being dropped belongs to what was before this point.
    if (point && this.#dropping && this.#dropping.point !== point) await this.#dropping.done;
    if (point) this.#log ??= await this.#begin(point);
    if (this.#log?.state === 'open') await this.#protect(this.#log, batch);
    await this.#inner.append(batch);
  }

  /** The image is a state of the volume, and is about to stop being one. */
  async #begin(point: RecoveryPoint): Promise<UndoLog> {
    const { image, volumeName, maxBytes, logger } = this.#options;
    const about = { image, volumeName, sizeBytes: this.sizeBytes };
    const off = maxBytes === 0 ? 'switched off (--undo-bytes 0)' : undefined;
    // What is not kept is left as it is on the disk: it has to be there.
    if (off === undefined) {
      await this.#committing;
      await this.#inner.commit();
    }
    try {
      const log = await UndoLog.create(this.#logOptions, about, point, off);
      logger.info({ volume: volumeName, point, off }, 'the replica leaves its last point');
      return log;
    } catch (error) {
      throw this.#explain(error);
    }
  }

  async #protect(log: UndoLog, batch: readonly Mutation[]): Promise<void> {
    const protecting = log.protect(batch);
    this.#protecting = protecting.catch(() => undefined);
    try {
      await protecting;
    } catch (error) {
      if (!(error instanceof UndoFullError) || this.#options.whenFull === 'hold') throw this.#explain(error);
      const { volumeName, logger } = this.#options;
      logger.warn(
        { volume: volumeName, reason: error.message },
        'the last point of the replica was given up',
      );
      await log.giveUp(`its undo log was full: ${error.message}`);
    }
  }

  /** The image is a state of the volume again, and durable. While this is under way the log is still kept complete. */
  async #drop(log: UndoLog): Promise<void> {
    await this.#options.place.remove();
    this.#log = undefined;
    await this.#protecting;
    await log.close();
    this.#options.logger.debug(
      { volume: this.#options.volumeName, bytes: log.bytes },
      'the undo log was dropped',
    );
  }

  #explain(error: unknown): BlockError {
    const { place, whenFull } = this.#options;
    if (!(error instanceof UndoFullError)) {
      const { code } = toBlockError(error);
      return new BlockError(code, `the undo log ${place.path} can't be written: ${errorMessage(error)}`, {
        cause: error,
      });
    }
    const ways = whenFull === 'hold' ? ', allow more, or start the hub with --undo-full release' : '';
    return new UndoFullError(
      'ENOSPC',
      `the replica is held at its last point, since the undo log ${place.path} has no room: ${error.message}; make room${ways}`,
      { cause: error },
    );
  }
}
