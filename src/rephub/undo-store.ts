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
import type { PointFate, ReplicaStore, UndoStatus } from './replica-store.ts';
import type { UndoPlace } from './undo-file.ts';
import { NotKeptError, UndoLog, type UndoLogOptions } from './undo-log.ts';
import { LOG_IS_GONE, readContent, UndoDamagedError } from './undo-reader.ts';

/** What to do when old bytes can't be kept: wait until they can, changing nothing, or go on without a way back. */
export type WhenUndoFull = 'hold' | 'release';

/**
 * Kept durably apart from the log: which one the image can't do without. A log that is missing, whoever took it away,
 * must not be taken for one that was never needed.
 */
export interface UndoNote {
  /** The id of the log; null: none is needed. */
  readonly logId: string | null;
  /** @throws OperationError when it can't be kept */
  keep(logId: string | null): Promise<void>;
}

/** Noted in place of an id: what the image can't do without is not there. */
const NO_LOG = 'none';

export interface UndoStoreOptions {
  readonly place: UndoPlace;
  readonly note: UndoNote;
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
  /** The image is overwritten in part, and the log of that is gone. */
  #isLost = false;
  /** The log may have been dropped, or not. */
  #isUnsure = false;
  /** The point that was left before the image became a state of the volume again, last. */
  #settled: RecoveryPoint | null = null;
  /** The point that everything before was made durable for, and the one that a batch was stored with. */
  #based: RecoveryPoint | undefined;
  #left: RecoveryPoint | undefined;
  #appending: Promise<unknown> = Promise.resolve();
  /** The batch that is being stored, and whether one could not be: the image may hold a part of it. */
  #storing: Promise<unknown> = Promise.resolve();
  #hasFailed = false;
  /** The log is about to go: what comes now waits until it has gone. */
  #isDropping = false;
  #committing: Promise<unknown> = Promise.resolve();
  #settling: { readonly point: RecoveryPoint | null; readonly done: Promise<void> } | undefined;

  private constructor(inner: ReplicaStore, options: UndoStoreOptions) {
    this.#inner = inner;
    this.#options = options;
  }

  /**
   * @param inner becomes the new one's, unless this throws
   * @throws UndoDamagedError when there is a log that is damaged, OperationError when it has begun to be put back
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
    if (this.#isLost) return { state: 'givenUp', reason: LOG_IS_GONE };
    if (!log) return { state: 'none' };
    if (log.state === 'open') return { state: 'open', point: log.head.point, bytes: log.bytes };
    return { state: 'givenUp', reason: log.reason };
  }

  fateOf(point: RecoveryPoint): PointFate {
    if (this.#log?.state === 'open' && !this.#isUnsure) return 'kept';
    const isLeft = this.#left === point || this.#settled === point;
    if (isLeft || this.#isUnsure || this.#isLost) return 'left';
    return this.#based === point ? 'kept' : 'unsure';
  }

  append(batch: readonly Mutation[], point?: RecoveryPoint | null): MaybePromise<void> {
    const settling = this.#settling;
    // Whoever leaves the image again needs a log of his own; of a point that is being settled none is begun any more.
    const isOther = point && (point !== settling?.point || !this.#log);
    if (settling && (this.#isDropping || isOther)) {
      return this.#follow(settling.done.then(() => this.append(batch, point)));
    }
    const begins = point && point !== this.#settled && !this.#isLost ? point : undefined;
    if (!this.#log && !begins && !settling) return this.#inner.append(batch);
    const storing = this.#append(batch, begins);
    this.#storing = storing.catch(() => {
      this.#hasFailed = true;
    });
    return this.#follow(storing);
  }

  async commit(settled?: RecoveryPoint | null): Promise<void> {
    const committing = this.#inner.commit();
    committing.catch(() => undefined);
    this.#committing = committing;
    if (settled === undefined) return committing;
    const done = this.#settle(settled, committing);
    this.#settling = { point: settled, done };
    return done;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#inner.read(offset, target);
  }

  grow(sizeBytes: number): Promise<void> {
    return this.#inner.grow(sizeBytes);
  }

  async close(): Promise<void> {
    await this.#appending;
    await this.#settling?.done.catch(() => undefined);
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
    const { note, volumeName, logger } = this.#options;
    this.#log = await this.#loadLog();
    if (this.#log) {
      // Who began it may have been killed before it was noted.
      if (note.logId !== this.#log.head.id) await note.keep(this.#log.head.id);
    } else if (note.logId !== null) {
      this.#isLost = true;
      logger.error({ volume: volumeName }, `the last point of the replica is lost: ${LOG_IS_GONE}`);
    }
  }

  async #loadLog(): Promise<UndoLog | undefined> {
    const { place, image, note, volumeName, isOutdated, whenFull } = this.#options;
    const file = await place.open();
    if (!file) return undefined;
    try {
      const content = await readContent(file, place.path);
      if (content.state === 'recovering') {
        throw new OperationError(`the image of ${volumeName} has begun to be put back and is not whole`, {
          hint: 'finish that first: repagent recover',
        });
      }
      const isForeign = content.head.image !== image;
      if (!isForeign && !isOutdated(content.head.point)) {
        return await UndoLog.load(this.#logOptions, file, content, this.#inner.sizeBytes);
      }
      await this.#setAside(file, isForeign ? 'it belongs to another image' : 'the replica has been further');
    } catch (error) {
      if (error instanceof UndoDamagedError && whenFull === 'release') {
        // Whoever finds no log must not take the image for whole.
        await note.keep(note.logId ?? NO_LOG);
        await this.#setAside(file, error.message);
        return undefined;
      }
      await file.close().catch(() => undefined);
      throw error instanceof OperationError ? error : this.#explain(error);
    }
    return undefined;
  }

  async #setAside(file: { close(): Promise<void> }, why: string): Promise<void> {
    const { place, volumeName, logger } = this.#options;
    logger.warn({ volume: volumeName, path: place.path, why }, 'an undo log was set aside');
    await file.close();
    await place.setAside();
  }

  #follow(appending: Promise<void>): Promise<void> {
    this.#appending = appending.catch(() => undefined);
    return appending;
  }

  async #append(batch: readonly Mutation[], point: RecoveryPoint | undefined): Promise<void> {
    if (point) this.#log ??= await this.#begin(point);
    if (this.#log?.state === 'open') await this.#protect(this.#log, batch);
    this.#left = point ?? this.#left;
    await this.#inner.append(batch);
  }

  /** The image is a state of the volume, and is about to stop being one. */
  async #begin(point: RecoveryPoint): Promise<UndoLog | undefined> {
    const { image, volumeName, maxBytes, whenFull, note, logger } = this.#options;
    const about = { image, volumeName, sizeBytes: this.sizeBytes };
    const off = maxBytes === 0 ? 'switched off (--undo-bytes 0)' : undefined;
    // What is not kept is left as it is on the disk: it has to be there. After a commit that failed nothing tells.
    if (off === undefined) {
      await this.#committing;
      await this.#inner.commit();
      this.#based = point;
    }
    let log: UndoLog | undefined;
    try {
      log = await UndoLog.create(this.#logOptions, about, point, off);
      await note.keep(log.head.id);
    } catch (error) {
      await log?.close();
      if (!(error instanceof NotKeptError) || whenFull === 'hold') throw this.#explain(error);
      await this.#release(error.message);
      return undefined;
    }
    logger.info({ volume: volumeName, point, off }, 'the replica leaves its last point');
    return log;
  }

  async #protect(log: UndoLog, batch: readonly Mutation[]): Promise<void> {
    try {
      await log.protect(batch);
    } catch (error) {
      if (!(error instanceof NotKeptError) || this.#options.whenFull === 'hold') throw this.#explain(error);
      this.#warnOfRelease(error.message);
      await log.giveUp(error.message);
    }
  }

  /** Not even a log that says so can be kept: the note has to. */
  async #release(reason: string): Promise<void> {
    const { place, note } = this.#options;
    this.#warnOfRelease(reason);
    await note.keep(NO_LOG);
    // Its name may have been made all the same.
    await place.remove();
    this.#isLost = true;
  }

  #warnOfRelease(reason: string): void {
    const { volumeName, logger } = this.#options;
    logger.warn({ volume: volumeName, reason }, 'the last point of the replica was given up');
  }

  /** What was stored until now is a state of the volume, once it is durable. */
  async #settle(point: RecoveryPoint | null, committing: Promise<void>): Promise<void> {
    try {
      await committing;
      this.#isDropping = true;
      await this.#storing;
      // A part of it may be in the image, which is a state of the volume no more: the log is what there is.
      if (this.#hasFailed) throw new BlockError('EIO', 'a batch that came meanwhile could not be stored');
      if (this.#log || this.#isLost) await this.#drop(this.#log);
      this.#settled = point;
    } finally {
      this.#isDropping = false;
      this.#settling = undefined;
    }
  }

  /** The image is a state of the volume again, and durable. */
  async #drop(log: UndoLog | undefined): Promise<void> {
    const { place, note, volumeName, logger } = this.#options;
    await note.keep(null);
    this.#isLost = false;
    if (!log) return;
    this.#isUnsure = true;
    await place.remove();
    this.#isUnsure = false;
    this.#log = undefined;
    await log.close();
    logger.debug({ volume: volumeName, bytes: log.bytes }, 'the undo log was dropped');
  }

  #explain(error: unknown): BlockError {
    const { place, whenFull } = this.#options;
    if (!(error instanceof NotKeptError)) {
      const what = `the undo log ${place.path} can't be kept: ${errorMessage(error)}`;
      return new BlockError(toBlockError(error).code, what, { cause: error });
    }
    const ways =
      whenFull === 'hold' ? ', allow more (--undo-bytes), or start the hub with --undo-full release' : '';
    return new NotKeptError(
      error.code,
      `the replica is held at its last point, since ${error.message} (${place.path}); make room${ways}`,
      { cause: error },
    );
  }
}
