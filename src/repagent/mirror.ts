// How the mirroring filter and the hubs of its disk see each other: the filter tells every mirror of every change, and
// each mirror reaches the disk as its hub may.
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { MutationKind } from '../blockdev/mutation.ts';
import type { RangeLock } from '../blockdev/range-lock.ts';
import type { Generation } from './dirty-map.ts';
import type { GuestThrottle } from './guest-throttle.ts';
import type { RangeWatches } from './range-watch.ts';

/**
 * What one hub's mirror of a disk is told. Nothing of it may throw into a guest's request, or make it wait but for what
 * the owner allowed.
 */
export interface Mirror {
  /** How long guests' changes may be delayed, where that was asked for. */
  readonly throttle: GuestThrottle | undefined;
  /** Before a change of the range is begun. @returns what {@link completed} or {@link failed} wants to have */
  begin(offset: number, length: number): Generation | undefined;
  /** Exact maps only: what a change waits for after {@link begin}, before its data may be written. */
  bitsDurable(): Promise<void> | undefined;
  /**
   * The change has taken effect. The guest's answer must follow in the same turn, and not before.
   * @param data lent; undefined unless it is a write
   */
  completed(
    kind: MutationKind,
    token: Generation | undefined,
    offset: number,
    length: number,
    data: Buffer | undefined,
  ): void;
  /** The change failed: what the range holds now is undefined. */
  failed(kind: MutationKind, token: Generation | undefined, offset: number, length: number): void;
  /** The device below could not make durable what it had been given: some of that may be gone once it is opened anew. */
  unflushed(error: unknown): void;
  /** The device below became larger. */
  grown(): void;
  /** Closes what outlives the process, after the device below was closed. */
  forget(): Promise<void>;
}

/** The disk that all its mirrors share: one order of changes, whoever makes them. */
export interface MirroredDisk {
  /** The device below the mirrors. */
  readonly below: BlockDevice;
  /** Puts overlapping changes, the guests' and every hub's, in one order. */
  readonly lock: RangeLock;
  readonly watches: RangeWatches;
  /** The device below is being closed or is closed. */
  readonly isClosed: boolean;
  /**
   * A hub writes, below its own mirror: it isn't sent back. To the other hubs it is a change as any.
   * @param by whose hub it is @param data valid until the answer
   */
  writeRemotely(by: Mirror, offset: number, data: Buffer): MaybePromise<void>;
}
