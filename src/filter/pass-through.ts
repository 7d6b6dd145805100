// The empty filter, and the base of all others: what a filter doesn't override goes to the device below.
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';

export class PassThrough implements BlockDevice {
  protected readonly below: BlockDevice;

  constructor(below: BlockDevice) {
    this.below = below;
  }

  get sizeBytes(): number {
    return this.below.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.below.limits;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.below.read(offset, target);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.below.write(offset, data, fua);
  }

  flush(): MaybePromise<void> {
    return this.below.flush();
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.below.trim(offset, length, fua);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.below.writeZeroes(offset, length, fua, mayTrim);
  }

  cache(offset: number, length: number): MaybePromise<void> {
    return this.below.cache(offset, length);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.below.extents(offset, length, maxExtents);
  }

  resize(sizeBytes: number): MaybePromise<void> {
    return this.below.resize(sizeBytes);
  }

  close(): Promise<void> {
    return this.below.close();
  }
}
