// A disk that is none: reads give zeroes, writes are forgotten, and no memory is touched but the answer's. It never says
// that something is a hole: an answer that says so carries no bytes. What a server reaches over it, no disk can surpass.
import { BlockError } from '../base/errors.ts';
import { KiB, MAX_REQUEST_BYTES } from '../base/limits.ts';
import { allData, type BlockDevice, type DeviceLimits, type Extent } from '../blockdev/block-device.ts';

export class NullDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: DeviceLimits = {
    readOnly: false,
    minBlockBytes: 1,
    fastZero: 'always',
    cheapExtents: true,
    preferredBlockBytes: 4 * KiB,
    maxRequestBytes: MAX_REQUEST_BYTES,
  };

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  read(_offset: number, target: Buffer): void {
    target.fill(0);
  }

  write(_offset: number, _data: Buffer, _fua: boolean): void {}

  flush(): void {}

  trim(_offset: number, _length: number, _fua: boolean): void {}

  writeZeroes(_offset: number, _length: number, _fua: boolean, _mayTrim: boolean): void {}

  cache(_offset: number, _length: number): void {}

  extents(offset: number, length: number): Extent[] {
    return allData(offset, length);
  }

  resize(_sizeBytes: number): void {
    throw new BlockError('ENOTSUP', 'a null disk keeps its size');
  }

  async close(): Promise<void> {}
}
