// What keeps a replica's bytes, as the hub knows it. The plain image is one; a store with a journal can take its place.
import type { MaybePromise } from '../base/maybe.ts';
import type { Mutation } from '../blockdev/mutation.ts';

export interface ReplicaStore {
  readonly sizeBytes: number;
  /**
   * Carries out `batch` in order, after every earlier batch; called only when that one was answered. Data and the
   * array are lent until the answer. When it fails, any part of the batch may have been carried out.
   */
  append(batch: readonly Mutation[]): MaybePromise<void>;
  /**
   * Makes everything that was answered before this call durable. When it fails, anything appended since the last
   * success may be lost, and the store is of no use any more: it is closed and opened again.
   */
  commit(): Promise<void>;
  /** Fills all of `target` with what was appended so far. */
  read(offset: number, target: Buffer): MaybePromise<void>;
  /** Makes it larger, durably; what is new reads as zeroes. @throws BlockError or OperationError when it can't */
  grow(sizeBytes: number): Promise<void>;
  /** Waits for what is in flight and lets go. Idempotent. */
  close(): Promise<void>;
}
