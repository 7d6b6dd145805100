// The one way to a replica's store: gathers mutations into batches, appends them one batch at a time, groups commits,
// and knows which ranges would be in doubt if the store failed now. A mutation it took is stored in order, or its range
// is in doubt; there is no third case.

import { Bitmap } from '../base/bitmap.ts';
import { pinBytes } from '../base/buffer-pool.ts';
import { BlockError } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { Mutation } from '../blockdev/mutation.ts';
import { GroupCommit } from './group-commit.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { PointFate, ReplicaStore, UndoStatus } from './replica-store.ts';

export interface LaneEvents {
  /**
   * A commit begins: it covers everything that was applied until now.
   * @returns whether that is a state of the volume
   */
  commitBegins(): boolean;
  /** What the last `commitBegins` covered is durable. */
  committed(): void;
  /** The store is gone; what was in doubt is in `takeDoubtful`. May be called during `apply`. */
  failed(error: unknown): void;
}

export interface LaneOptions {
  readonly sizeBytes: number;
  /** Bytes that ranges in doubt are widened to. */
  readonly chunkBytes: number;
  /** Milliseconds from the start of one commit to the start of the next. */
  readonly gatherMs: () => number;
  /** What has to end before a batch may be stored; never rejects. */
  readonly beforeChange?: (() => MaybePromise<void>) | undefined;
  /** As for `guard`, from the first batch on. */
  readonly point?: RecoveryPoint | null | undefined;
  readonly events: LaneEvents;
}

export class StoreLane {
  readonly #chunkBytes: number;
  readonly #beforeChange: (() => MaybePromise<void>) | undefined;
  readonly #events: LaneEvents;
  readonly #commits: GroupCommit;
  #store: ReplicaStore | undefined;
  #batch: Mutation[] = [];
  #spare: Mutation[] = [];
  /** The last append that was answered with a promise, or waits behind one. */
  #appending: Promise<void> | undefined;
  /** Chunks that changed since the last commit began, and those that the running commit covers. */
  #doubtful: Bitmap;
  #committing: Bitmap;
  #closing: Promise<void> = Promise.resolve();
  /** What batches are to be kept recoverable to; undefined: the store holds a state of the volume, and goes on so. */
  #point: RecoveryPoint | null | undefined;
  /** How often `guard` was called, and had been when the commit under way began that settles; else -1. */
  #guards = 0;
  #settling = -1;
  #lastUndo: UndoStatus | undefined;
  #lastFate: PointFate | undefined;

  /** @param store becomes the lane's */
  constructor(store: ReplicaStore, options: LaneOptions) {
    this.#store = store;
    this.#chunkBytes = options.chunkBytes;
    this.#beforeChange = options.beforeChange;
    this.#events = options.events;
    this.#point = options.point;
    const chunks = Math.ceil(options.sizeBytes / options.chunkBytes);
    this.#doubtful = new Bitmap(chunks);
    this.#committing = new Bitmap(chunks);
    this.#commits = new GroupCommit({
      ready: () => this.isIdle,
      gatherMs: options.gatherMs,
      begin: () => this.#beginCommit(),
      done: () => this.#commitDone(),
      failed: (error) => this.#fail(error),
    });
  }

  /** False after a failure: the store has been let go. */
  get isOpen(): boolean {
    return this.#store !== undefined;
  }

  /** Nothing was taken that is not stored. */
  get isIdle(): boolean {
    return this.#batch.length === 0 && this.#appending === undefined;
  }

  /** Everything that was stored is durable. */
  get isDurable(): boolean {
    return this.isIdle && this.#doubtful.count === 0 && this.#committing.count === 0;
  }

  /** Bytes in chunks that are not known to be durable. */
  get doubtfulBytes(): number {
    return (this.#doubtful.count + this.#committing.count) * this.#chunkBytes;
  }

  /** What there is to go back with; of a store that failed, what there was. */
  get undo(): UndoStatus | undefined {
    return this.#store ? this.#store.undo : this.#lastUndo;
  }

  /** What the store's content may have to be put back to; undefined once a commit has settled. */
  get point(): RecoveryPoint | null | undefined {
    return this.#point;
  }

  /** What became of `point`, where there is one. */
  get pointFate(): PointFate {
    const point = this.#point;
    if (!this.#store) return this.#lastFate ?? 'left';
    if (!point) return point === undefined ? 'unsure' : 'left';
    const fate = this.#store.fateOf?.(point) ?? 'left';
    // Nothing is in doubt: what was stored is durable.
    const isDurable = this.#doubtful.count === 0 && this.#committing.count === 0;
    return fate === 'unsure' && isDurable ? 'kept' : fate;
  }

  /** What was added until now is a state of the volume, `point`, and what is added from now on may not be. */
  guard(point: RecoveryPoint | null): void {
    const { isOpen } = this;
    void this.apply();
    // It failed just now, and whoever heard of it has said what there is instead.
    if (isOpen && !this.isOpen) return;
    // A point of its own each time: the store tells them apart.
    this.#point = point && { ...point };
    this.#guards += 1;
  }

  /** Adds to the batch. Data is lent until the `apply` that follows was answered. @param offset @param length what it changes, bytes */
  add(mutation: Mutation, offset: number, length: number): void {
    if (!this.#store) return;
    this.#batch.push(mutation);
    if (length === 0) return;
    this.#doubtful.set(
      Math.floor(offset / this.#chunkBytes),
      Math.ceil((offset + length) / this.#chunkBytes),
    );
  }

  /** What the store holds of the range is relied upon, and not known to be durable: the next commit covers it. */
  doubt(offset: number, length: number): void {
    if (!this.#store) return;
    this.#doubtful.set(
      Math.floor(offset / this.#chunkBytes),
      Math.ceil((offset + length) / this.#chunkBytes),
    );
  }

  /** Stores the batch. Answers when it is stored, or the failure was reported; never throws nor rejects. */
  apply(): MaybePromise<void> {
    const batch = this.#batch;
    if (batch.length === 0) return this.#appending;
    this.#batch = this.#spare;
    const store = this.#store;
    const point = this.#point;
    const before = this.#appending ?? this.#beforeChange?.();
    if (before) {
      this.#spare = [];
      const release = pinAll(batch);
      return this.#follow(
        before.then(async () => {
          await this.#append(store, batch, point);
          release();
        }),
      );
    }
    const result = this.#append(store, batch, point);
    if (result === undefined) {
      batch.length = 0;
      this.#spare = batch;
      return undefined;
    }
    this.#spare = [];
    const release = pinAll(batch);
    return this.#follow(result.then(release));
  }

  /** Resolves when the appends that are under way now have ended, well or not. */
  async idle(): Promise<void> {
    await this.#appending;
  }

  /** Asks for a commit; `committed` tells when everything applied until it began is durable. @param urgent at once */
  requestCommit(urgent = false): void {
    this.#commits.request(urgent);
  }

  /** @throws BlockError when the store is gone or can't read */
  read(offset: number, target: Buffer): MaybePromise<void> {
    if (!this.#store) throw new BlockError('ESHUTDOWN', 'the replica is not open');
    return this.#store.read(offset, target);
  }

  /** Runs over the chunks whose bytes are unknown since the store failed, as bytes; forgets them. */
  takeDoubtful(visit: (offset: number, length: number) => void): void {
    this.#doubtful.union(this.#committing);
    this.#committing.clearAll();
    for (const run of this.#doubtful.runs()) {
      visit(run.start * this.#chunkBytes, (run.end - run.start) * this.#chunkBytes);
    }
    this.#doubtful.clearAll();
  }

  /** Lets go of the store after what is in flight; durable as far as the store could. Idempotent. @throws what the store's close threw */
  close(): Promise<void> {
    this.#letGo();
    return this.#closing;
  }

  /** Never settles its returned promise with an error. */
  #append(
    store: ReplicaStore | undefined,
    batch: Mutation[],
    point: RecoveryPoint | null | undefined,
  ): Promise<void> | undefined {
    // The store failed after the batch was taken: its ranges were in doubt by then, and were reported so.
    if (!store || store !== this.#store) return undefined;
    try {
      const result = store.append(batch, point);
      if (result instanceof Promise) return result.catch((error: unknown) => this.#failIf(store, error));
    } catch (error) {
      this.#failIf(store, error);
    }
    return undefined;
  }

  #follow(promise: Promise<void>): Promise<void> {
    const tracked: Promise<void> = promise.then(() => {
      if (this.#appending === tracked) this.#appending = undefined;
      this.#commits.poke();
    });
    this.#appending = tracked;
    return tracked;
  }

  #beginCommit(): Promise<void> | undefined {
    const settles = this.#events.commitBegins() && this.#point !== undefined;
    this.#settling = settles ? this.#guards : -1;
    const keeps = settles && (this.undo?.state ?? 'none') !== 'none';
    if (this.#doubtful.count === 0 && !keeps) return undefined;
    [this.#committing, this.#doubtful] = [this.#doubtful, this.#committing];
    return this.#store?.commit(settles ? this.#point : undefined);
  }

  #commitDone(): void {
    this.#committing.clearAll();
    // Another point may have come meanwhile.
    if (this.#settling === this.#guards) this.#point = undefined;
    this.#events.committed();
  }

  #failIf(store: ReplicaStore, error: unknown): void {
    if (store === this.#store) this.#fail(error);
  }

  #fail(error: unknown): void {
    this.#letGo();
    // What failed is known; closing it may fail for the same reason.
    this.#closing = this.#closing.catch(() => undefined);
    this.#events.failed(error);
  }

  #letGo(): void {
    const store = this.#store;
    if (!store) return;
    this.#lastUndo = store.undo;
    this.#lastFate = this.pointFate;
    this.#store = undefined;
    this.#commits.close();
    const appending = this.#appending;
    this.#closing = (async () => {
      await appending;
      await store.close();
    })();
  }
}

/** Keeps the data of a batch where it lies until the returned function is called. */
function pinAll(batch: readonly Mutation[]): () => void {
  const releases = batch.flatMap((mutation) =>
    mutation.kind === 'write' ? (pinBytes(mutation.data) ?? []) : [],
  );
  return () => {
    for (const release of releases) release();
  };
}
