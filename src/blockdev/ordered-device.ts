// Serialises overlapping changes in the order of arrival, whatever the device below does with those in flight
// together. Sits on every bottom device and under the mirroring filter. It must never hold up a read, nor two
// changes that don't overlap; while the device answers at once it costs one comparison.
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from './block-device.ts';
import { RangeLock } from './range-lock.ts';

export class OrderedDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #lock = new RangeLock();
  #closing: Promise<void> | undefined;

  constructor(below: BlockDevice) {
    this.#below = below;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#below.limits;
  }

  /** How many changes are in flight or waiting. */
  get inFlight(): number {
    return this.#lock.size;
  }

  /** Whether a change that was begun and has not ended touches [offset, offset + length). */
  overlaps(offset: number, length: number): boolean {
    return this.#lock.size > 0 && this.#lock.overlaps(offset, length);
  }

  /** Resolves when every change that is in flight or waiting now has ended, well or not. */
  drain(): Promise<void> {
    return this.#lock.drain();
  }

  /** Not ordered: a read that overlaps a change in flight may see either state, as on any disk. */
  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#below.read(offset, target);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    const length = data.length;
    if (this.overlaps(offset, length)) {
      return this.#lock.run(offset, length, () => this.#below.write(offset, data, fua));
    }
    return this.#lock.track(offset, length, this.#below.write(offset, data, fua));
  }

  /** Not ordered: a flush covers the changes that were answered before it, and those are no longer in flight. */
  flush(): MaybePromise<void> {
    return this.#below.flush();
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    if (this.overlaps(offset, length)) {
      return this.#lock.run(offset, length, () => this.#below.trim(offset, length, fua));
    }
    return this.#lock.track(offset, length, this.#below.trim(offset, length, fua));
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    if (this.overlaps(offset, length)) {
      return this.#lock.run(offset, length, () => this.#below.writeZeroes(offset, length, fua, mayTrim));
    }
    return this.#lock.track(offset, length, this.#below.writeZeroes(offset, length, fua, mayTrim));
  }

  cache(offset: number, length: number): MaybePromise<void> {
    return this.#below.cache(offset, length);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.#below.extents(offset, length, maxExtents);
  }

  resize(sizeBytes: number): MaybePromise<void> {
    return this.#below.resize(sizeBytes);
  }

  close(): Promise<void> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  /** Changes that wait for their turn have been accepted: they are carried out before the device is closed. */
  async #finish(): Promise<void> {
    while (this.#lock.size > 0) await this.#lock.drain();
    await this.#below.close();
  }
}
