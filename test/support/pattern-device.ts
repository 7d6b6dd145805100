// Disks of any size that cost memory only where they are written: one that starts as zeroes, and one whose every
// 8 bytes hold their own offset, so that a read from the wrong place shows where it came from.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../../src/blockdev/block-device.ts';
import { type PageFill, SPARSE_PAGE_BYTES, SparseBytes } from './sparse-bytes.ts';

export const TEST_LIMITS: DeviceLimits = {
  readOnly: false,
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  maxRequestBytes: 32 * 1024 * 1024,
  fastZero: 'never',
  cheapExtents: false,
};

/** A disk of zeroes, held in memory page by page. Answers at once. */
export class SparseDevice implements BlockDevice {
  sizeBytes: number;
  readonly limits: DeviceLimits;
  /** What is on the disk, for the test to look at and to change behind the chain's back. */
  readonly bytes: SparseBytes;
  /** How often close was called. */
  closes = 0;

  constructor(sizeBytes: number, limits: Partial<DeviceLimits> = {}, fill?: PageFill) {
    this.sizeBytes = sizeBytes;
    this.limits = { ...TEST_LIMITS, ...limits };
    this.bytes = new SparseBytes(fill);
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    this.bytes.read(offset, target);
  }

  write(offset: number, data: Buffer, _fua: boolean): MaybePromise<void> {
    this.bytes.write(offset, data);
  }

  flush(): MaybePromise<void> {}

  trim(offset: number, length: number, _fua: boolean): MaybePromise<void> {
    this.bytes.zero(offset, length);
  }

  writeZeroes(offset: number, length: number, _fua: boolean, _mayTrim: boolean): MaybePromise<void> {
    this.bytes.zero(offset, length);
  }

  cache(_offset: number, _length: number): MaybePromise<void> {}

  resize(sizeBytes: number): MaybePromise<void> {
    this.sizeBytes = sizeBytes;
  }

  /** One extent a page: written pages are data, others holes. */
  extents(offset: number, length: number): MaybePromise<Extent[]> {
    const list: Extent[] = [];
    for (let at = offset; at < offset + length; ) {
      const pageEnd = (Math.floor(at / SPARSE_PAGE_BYTES) + 1) * SPARSE_PAGE_BYTES;
      const end = Math.min(offset + length, pageEnd);
      const hole = !this.bytes.isWritten(at);
      list.push({ offset: at, length: end - at, hole, zero: hole });
      at = end;
    }
    return list;
  }

  async close(): Promise<void> {
    this.closes += 1;
  }
}

/** A disk whose every 8 bytes hold their own offset, big-endian, until they are written. */
export class PatternDevice extends SparseDevice {
  constructor(sizeBytes: number, limits: Partial<DeviceLimits> = {}) {
    super(sizeBytes, limits, fillPattern);
  }

  /** Nothing of it is a hole. */
  override extents(offset: number, length: number): MaybePromise<Extent[]> {
    return length === 0 ? [] : [{ offset, length, hole: false, zero: false }];
  }
}

/** What a fresh {@link PatternDevice} holds in [offset, offset + length). */
export function patternBytes(offset: number, length: number): Buffer {
  return new SparseBytes(fillPattern).slice(offset, length);
}

function fillPattern(page: Buffer, offset: number): void {
  for (let at = 0; at < page.length; at += 8) page.writeBigUInt64BE(BigInt(offset + at), at);
}
