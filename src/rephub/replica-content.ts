// What a replica holds: its store, and which ranges of it are not in step with the stream. Every range is stored as the
// stream has it, or unread, or in doubt until the next commit; a failing store turns what is in doubt into unread.
import { BlockError } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { Mutation } from '../blockdev/mutation.ts';
import { rangeDigest } from '../repwire/digest.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { PointFate, ReplicaStore, UndoStatus } from './replica-store.ts';
import { StoreLane } from './store-lane.ts';
import { SyncEngine, type SyncTuning } from './sync-engine.ts';
import type { SectorRange, SyncRead } from './sync-read.ts';
import { UndoDamagedError } from './undo-reader.ts';
import { splitZeroRuns } from './zero-runs.ts';

export interface ContentEvents {
  /** A commit begins: it covers everything that was applied until now. @returns whether that is a state of the volume */
  commitBegins(): boolean;
  /** What the last `commitBegins` covered is durable. */
  committed(): void;
  /** The store is gone, and what is in doubt is about to become unread. May be called during `apply`. */
  storeFails(): void;
  /** The same, and it has become so. */
  storeFailed(error: unknown): void;
}

export interface ContentOptions {
  /** Bytes, as far as known at the start; else 0. */
  readonly sizeBytes: number;
  readonly tuning: SyncTuning;
  /** Milliseconds from the start of one commit to the start of the next. */
  readonly gatherMs: () => number;
  /** @throws OperationError */
  readonly openStore: (sizeBytes: number, grows: boolean) => Promise<ReplicaStore>;
  /** What has to end before the store may change; never rejects. */
  readonly beforeChange?: () => MaybePromise<void>;
  readonly events: ContentEvents;
}

const FLUSH: Mutation = { kind: 'flush' };

export class ReplicaContent {
  /** What there is to go back with, as far as somebody looked who opened nothing. */
  undoSeen: UndoStatus | undefined;
  readonly #options: ContentOptions;
  #engine: SyncEngine;
  #lane: StoreLane | undefined;
  #opening: Promise<unknown> = Promise.resolve();
  #closed = false;
  #isLetGo = false;
  /** The undo log was found damaged. */
  #undoLost: UndoStatus | undefined;

  constructor(options: ContentOptions) {
    this.#options = options;
    this.#engine = new SyncEngine(options.sizeBytes, options.tuning);
  }

  get engine(): SyncEngine {
    return this.#engine;
  }

  /** Whether there is a store that has not failed. */
  get isOpen(): boolean {
    return this.#lane?.isOpen ?? false;
  }

  /** Nothing was taken that is not stored. */
  get isIdle(): boolean {
    return this.#lane?.isIdle ?? true;
  }

  /** Everything that was stored is durable. */
  get isDurable(): boolean {
    return this.#lane?.isDurable ?? false;
  }

  /** Bytes in chunks that are not known to be durable. */
  get doubtfulBytes(): number {
    return this.#lane?.doubtfulBytes ?? 0;
  }

  /** What there is to go back with; undefined: nothing is kept, or not known yet. */
  get undo(): UndoStatus | undefined {
    return this.#undoLost ?? this.#lane?.undo ?? this.undoSeen;
  }

  /** What became of `point` when the store failed. */
  get pointFate(): PointFate {
    return this.#lane?.pointFate ?? 'left';
  }

  /** What is stored is no state of the volume, or was none until the next commit: nothing is promised of it. */
  get isGuarded(): boolean {
    return this.#lane?.point !== undefined;
  }

  /** Everything that was stored is durable, and a state of the volume. */
  get isSettled(): boolean {
    return this.isDurable && !this.isGuarded;
  }

  /** The last state of the volume, while what is stored is none; null: there was none. */
  get point(): RecoveryPoint | null | undefined {
    return this.#lane?.point;
  }

  /** What was stored until now is a state of the volume, `point`, and what comes now may not be; null: it was none. */
  guard(point: RecoveryPoint | null): void {
    this.#lane?.guard(point);
  }

  /**
   * Opens the store for a volume of `sizeBytes` unless it is open; one at a time.
   * @param grows the volume is known, and has become larger: what is there stays, what is new is unread
   * @returns whether what is known of it is void: it has another size (unless it grows), was let go, or is without the
   *   undo log that it was left with: somebody put it back, or took that away
   * @throws OperationError
   */
  open(sizeBytes: number, grows = false): Promise<boolean> {
    const opening = this.#opening.then(() => this.#open(sizeBytes, grows));
    this.#opening = opening.catch(() => undefined);
    return opening;
  }

  /** Closes the store, if it is open: whoever opens it next begins anew. Only while nobody replicates. */
  letGo(): Promise<void> {
    this.#isLetGo = true;
    const closing = this.#opening.then(() => this.#lane?.close());
    this.#opening = closing.catch(() => undefined);
    return closing;
  }

  /** A change of the stream. Data is lent until the `apply` that follows was answered. */
  change(mutation: Mutation, offset: number, length: number): void {
    const lane = this.#lane;
    if (lane?.isOpen) {
      this.#engine.mutated(offset, length);
      lane.add(mutation, offset, length);
    } else {
      this.#engine.markUnread(offset, length);
    }
  }

  /** The same for a write. */
  write(offset: number, data: Buffer): void {
    if (data.length > 0) this.change({ kind: 'write', offset, data, fua: false }, offset, data.length);
  }

  /** The same for zeroes. */
  zero(offset: number, length: number, trim: boolean): void {
    if (length === 0) return;
    if (trim) this.change({ kind: 'trim', offset, length, fua: false }, offset, length);
    else this.change({ kind: 'writeZeroes', offset, length, fua: false, mayTrim: true }, offset, length);
  }

  /** The guest's flush, in the order of the stream. */
  flush(): void {
    this.#lane?.add(FLUSH, 0, 0);
  }

  /**
   * The answer of a read.
   * @param data null when all of it is zero; lent until the `apply` that follows was answered
   * @param asOf the newest sequence that the data may contain
   * @param answeredBytes so much of its start was answered
   */
  storeRead(read: SyncRead, data: Buffer | null, asOf: number, answeredBytes = read.length): void {
    this.#engine.finishRead(read, asOf, data === null, answeredBytes);
    const lane = this.#lane;
    if (!lane) return;
    const zeroes = (offset: number, length: number): void => {
      lane.add({ kind: 'writeZeroes', offset, length, fua: false, mayTrim: true }, offset, length);
    };
    const write = (offset: number, piece: Buffer): void => {
      lane.add({ kind: 'write', offset, data: piece, fua: false }, offset, piece.length);
    };
    for (const run of read.freshRuns()) {
      const from = run.offset - read.offset;
      if (data === null) zeroes(run.offset, run.length);
      else splitZeroRuns(run.offset, data.subarray(from, from + run.length), write, zeroes);
    }
  }

  /**
   * The agent's digest of a range, at this place of the stream; everything before it is stored.
   * @param digest null: the agent could not tell, so that the range is read
   * @returns whether it is not known to be equal, and is read if nothing else was in its way; never rejects
   */
  compare(range: SectorRange, digest: Buffer | null): MaybePromise<boolean> {
    if (!digest) {
      this.#engine.finishCompare(range, false);
      return true;
    }
    const bytes = Buffer.allocUnsafe(range.length);
    const done = (): boolean => {
      const equal = rangeDigest(bytes).equals(digest);
      // Equal in the page cache may not be equal on the disk: a hub that was killed left it there.
      if (this.#engine.finishCompare(range, equal)) this.#lane?.doubt(range.offset, range.length);
      return !equal;
    };
    // What can't be read here is brought by the agent.
    const failed = (): boolean => !this.#engine.finishCompare(range, false);
    try {
      const reading = this.read(range.offset, bytes);
      if (reading instanceof Promise) return reading.then(done, failed);
      return done();
    } catch {
      return failed();
    }
  }

  /** Stores what came since the last call. Answers when it is stored, or its failure was reported; never rejects. */
  apply(): MaybePromise<void> {
    return this.#lane?.apply();
  }

  /** Asks for a commit. @param urgent at once */
  requestCommit(urgent = false): void {
    this.#lane?.requestCommit(urgent);
  }

  /** @throws BlockError when it can't be read */
  read(offset: number, target: Buffer): MaybePromise<void> {
    if (!this.#lane) throw new BlockError('ESHUTDOWN', 'the replica is not open');
    return this.#lane.read(offset, target);
  }

  /** Waits for what is in flight, makes it durable, and lets go. Idempotent. @throws what the store's close threw */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#opening;
    await this.#lane?.close();
  }

  async #open(sizeBytes: number, grows: boolean): Promise<boolean> {
    if (this.#closed) throw new BlockError('ESHUTDOWN', 'the hub is shutting down');
    if (this.isOpen && this.#engine.sizeBytes === sizeBytes) {
      // Nobody begins on top of what an earlier connection left under way: a store that hangs would collect batches.
      await this.#lane?.idle();
      if (this.isOpen) return false;
    }
    const { tuning, gatherMs, beforeChange, events } = this.#options;
    // Of a lane that failed everything in doubt is unread already; of a volume with a new size everything is, unless
    // it grows from what was stored well.
    if (grows) await this.#lane?.idle();
    const wasClosed = await closedWell(this.#lane);
    const undoBefore = this.#lane?.undo?.state;
    const store = await this.#openStore(sizeBytes, grows);
    const keeps = grows && wasClosed && sizeBytes > this.#engine.sizeBytes;
    if (keeps) this.#engine.grow(sizeBytes);
    const isNew = sizeBytes !== this.#engine.sizeBytes;
    if (isNew) this.#engine = new SyncEngine(sizeBytes, tuning);
    const lane: StoreLane = new StoreLane(store, {
      sizeBytes,
      chunkBytes: tuning.chunkBytes,
      gatherMs,
      beforeChange,
      // Of another size: whoever attaches says what it is.
      point: isNew ? null : this.point,
      events: {
        commitBegins: () => events.commitBegins(),
        committed: () => events.committed(),
        failed: (error) => this.#failed(lane, error),
      },
    });
    this.#lane = lane;
    const isPutBack = undoBefore === 'open' && store.undo?.state !== 'open';
    const isVoid = isNew || this.#isLetGo || isPutBack;
    this.#isLetGo = false;
    return isVoid;
  }

  async #openStore(sizeBytes: number, grows: boolean): Promise<ReplicaStore> {
    try {
      const store = await this.#options.openStore(sizeBytes, grows);
      this.#undoLost = undefined;
      return store;
    } catch (error) {
      if (error instanceof UndoDamagedError) this.#undoLost = { state: 'givenUp', reason: error.message };
      throw error;
    }
  }

  #failed(lane: StoreLane, error: unknown): void {
    this.#options.events.storeFails();
    this.#engine.dropReads();
    lane.takeDoubtful((offset, length) => this.#engine.markUnread(offset, length));
    this.#options.events.storeFailed(error);
  }
}

/** Closes a lane that is idle. @returns whether everything that it took is durable, or known to be unread */
async function closedWell(lane: StoreLane | undefined): Promise<boolean> {
  if (!lane) return true;
  try {
    await lane.close();
    return true;
  } catch {
    return false;
  }
}
