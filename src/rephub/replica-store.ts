// What keeps a replica's bytes, as the hub knows it. The plain image is one; a store with a journal can take its place.
import type { MaybePromise } from '../base/maybe.ts';
import type { Mutation } from '../blockdev/mutation.ts';
import type { RecoveryPoint } from './recovery-point.ts';

/** What a store has to go back with: `open`, to `point`; `givenUp`: it can't, since more changed than was kept. */
export type UndoStatus =
  | { readonly state: 'none' }
  | { readonly state: 'open'; readonly point: RecoveryPoint; readonly bytes: number }
  | { readonly state: 'givenUp'; readonly reason: string };

/**
 * What a store that failed says of a point. `kept`: what is stored is that still, or can be put back to it. `left`: it
 * isn't, and can't. `unsure`: nothing was stored that is not of it, but what led to it may not all be durable.
 */
export type PointFate = 'kept' | 'left' | 'unsure';

export interface ReplicaStore {
  readonly sizeBytes: number;
  /**
   * Carries out `batch` in order, after every earlier batch; called only when that one was answered. Data and the
   * array are lent until the answer. When it fails, any part of the batch may have been carried out.
   * @param point given: with this batch, or an earlier one of the same point, what is stored stops being a state of its
   *   volume. What it was until then, `point`, has to stay within reach until a commit settles; null: it was none.
   */
  append(batch: readonly Mutation[], point?: RecoveryPoint | null): MaybePromise<void>;
  /**
   * Makes everything that was answered before this call durable. When it fails, anything appended since the last
   * success may be lost, and the store is of no use any more: it is closed and opened again.
   * @param settled given: what is stored is a state of its volume again, after it had left `settled` (null: none), and
   *   stays one until a batch comes with another point. What was kept to go back is dropped, durably
   */
  commit(settled?: RecoveryPoint | null): Promise<void>;
  /** What there is to go back with; undefined: a store that keeps nothing. */
  readonly undo?: UndoStatus | undefined;
  /** What became of a point that was given with a batch, or is about to be; undefined: a store that keeps nothing. */
  fateOf?(point: RecoveryPoint): PointFate;
  /** Fills all of `target` with what was appended so far. */
  read(offset: number, target: Buffer): MaybePromise<void>;
  /** Makes it larger, durably; what is new reads as zeroes. @throws BlockError or OperationError when it can't */
  grow(sizeBytes: number): Promise<void>;
  /** Waits for what is in flight and lets go. Idempotent. */
  close(): Promise<void>;
}
