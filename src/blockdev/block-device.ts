// What a disk is to everything above it. NBD server, filters, repagent and hub know disks only by this interface.
import type { MaybePromise } from '../base/maybe.ts';

/**
 * Whether zeroing a range costs less than writing that many zeroes: `never`, only where a hole may be left (`holes`),
 * or whatever is asked for.
 */
export type FastZero = 'never' | 'holes' | 'always';

/** What a device accepts. The guard between two links enforces it, so that devices and filters need no checks. */
export interface DeviceLimits {
  readonly readOnly: boolean;
  /** Offsets and lengths must be multiples of this, bytes; a power of two. */
  readonly minBlockBytes: number;
  /** The size at which a request is cheapest, bytes. */
  readonly preferredBlockBytes: number;
  /** Largest read or write, bytes. Trim and writeZeroes have no limit but the disk's size. */
  readonly maxRequestBytes: number;
  readonly fastZero: FastZero;
  /** Asking for the extents of a range costs far less than reading it: a large read may look for holes first. */
  readonly cheapExtents: boolean;
}

/** A run of bytes with one allocation state, as NBD's base:allocation context tells it. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  /** Nothing is allocated here. */
  readonly hole: boolean;
  /** Reads as zeroes. A hole always does on our own devices. */
  readonly zero: boolean;
  /** Set on the last extent of a list when the device stopped looking there: it is told as data, and may be none. */
  readonly unknown?: true;
}

/**
 * A disk of `sizeBytes` bytes. Offsets and lengths are bytes. Every call answers a value or a promise: what the
 * page cache can answer is done when the call returns. Failures are {@link BlockError}, thrown or rejected.
 *
 * Buffers are lent until the answer: when a call returns a promise, the caller keeps `data` and `target` valid and
 * unchanged until it settles. A device that needs the bytes after its answer calls retainBytes or copies.
 * Devices may assume valid arguments (see guard in filter/).
 */
export interface BlockDevice {
  readonly sizeBytes: number;
  readonly limits: DeviceLimits;
  /** Fills all of `target` from `offset`. */
  read(offset: number, target: Buffer): MaybePromise<void>;
  /** Writes all of `data`; with `fua` it is durable before the answer. */
  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void>;
  /** Makes everything answered before this call durable. */
  flush(): MaybePromise<void>;
  /** Gives the range's space back where possible. Afterwards it always reads as zeroes, so that a replica can do the same. */
  trim(offset: number, length: number, fua: boolean): MaybePromise<void>;
  /** Makes the range read as zeroes; `mayTrim` allows a hole, otherwise the space stays or becomes allocated. */
  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void>;
  /** Brings the range into cache where there is one. Advisory: failing to do so is no error. */
  cache(offset: number, length: number): MaybePromise<void>;
  /**
   * The allocation of the range: contiguous extents in order, which cover exactly [offset, offset + length).
   * @param maxExtents how many the caller has use for, a hint: what comes after them may be one that is `unknown`
   */
  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]>;
  /**
   * Makes the disk larger, durably; what is new reads as zeroes. Never smaller.
   * @param sizeBytes above the present size
   * @throws BlockError ENOTSUP where the size is not the device's to decide; ENOSPC
   */
  resize(sizeBytes: number): MaybePromise<void>;
  /** Waits for what is in flight, makes it durable, and lets go. Idempotent. */
  close(): Promise<void>;
}

/** The whole range as data: the answer of a device that can't tell. */
export function allData(offset: number, length: number): Extent[] {
  return length === 0 ? [] : [{ offset, length, hole: false, zero: false }];
}
