// The mirroring filter: every change goes to the device below, and when it has taken effect, into the stream to the
// hub. It must never make the guest wait for the hub nor fail for it; while the device below answers at once, so does
// this, without a promise and without a closure.
//
// Deliberately no PassThrough: a method that is added to BlockDevice, or a kind that is added to Mutation, doesn't
// compile until it's decided here whether it changes the disk.
import { unreachable } from '../base/assert.ts';
import { SECTOR_BYTES } from '../base/limits.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';
import type { MutationKind } from '../blockdev/mutation.ts';
import { DerivedLimits } from '../filter/derived-limits.ts';
import type { Generation } from './dirty-map.ts';
import type { ProtectedVolume } from './protected-volume.ts';

export class MirrorFilter implements BlockDevice {
  readonly #volume: ProtectedVolume;
  readonly #below: BlockDevice;
  readonly #limits: DerivedLimits;
  #closing: Promise<void> | undefined;

  constructor(volume: ProtectedVolume) {
    this.#volume = volume;
    this.#below = volume.below;
    // The hub knows whole sectors only.
    this.#limits = new DerivedLimits(this.#below, (limits) => ({
      minBlockBytes: Math.max(limits.minBlockBytes, SECTOR_BYTES),
    }));
  }

  get sizeBytes(): number {
    return this.#volume.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#limits.current;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#below.read(offset, target);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#change('write', offset, data.length, data, fua, false);
  }

  flush(): MaybePromise<void> {
    return this.#carryOut('flush', 0, 0, undefined, false, false);
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change('trim', offset, length, undefined, fua, false);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#change('writeZeroes', offset, length, undefined, fua, mayTrim);
  }

  cache(offset: number, length: number): MaybePromise<void> {
    return this.#below.cache(offset, length);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.#below.extents(offset, length, maxExtents);
  }

  resize(sizeBytes: number): MaybePromise<void> {
    return andThen(this.#below.resize(sizeBytes), () => this.#volume.grown());
  }

  close(): Promise<void> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  /** A change of a range: after those that it overlaps, the hub's own included. */
  #change(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
  ): MaybePromise<void> {
    const { lock } = this.#volume;
    if (length === 0) return this.#apply(kind, offset, length, data, fua, mayTrim);
    if (lock.size > 0 && lock.overlaps(offset, length)) {
      return lock.run(offset, length, () => this.#carryOut(kind, offset, length, data, fua, mayTrim));
    }
    return lock.track(offset, length, this.#carryOut(kind, offset, length, data, fua, mayTrim));
  }

  #carryOut(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
  ): MaybePromise<void> {
    const volume = this.#volume;
    const token = kind === 'flush' ? undefined : volume.begin(offset, length);
    const bits = kind === 'flush' ? undefined : volume.bitsDurable();
    if (bits) return bits.then(() => this.#finishChange(token, kind, offset, length, data, fua, mayTrim));
    return this.#finishChange(token, kind, offset, length, data, fua, mayTrim);
  }

  #finishChange(
    token: Generation | undefined,
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
  ): MaybePromise<void> {
    const volume = this.#volume;
    let result: MaybePromise<void>;
    try {
      result = this.#apply(kind, offset, length, data, fua, mayTrim);
    } catch (error) {
      volume.failed(kind, token, offset, length);
      throw error;
    }
    if (result instanceof Promise) {
      return result.then(
        () => volume.completed(kind, token, offset, length, data),
        (error: unknown) => {
          volume.failed(kind, token, offset, length);
          throw error;
        },
      );
    }
    volume.completed(kind, token, offset, length, data);
  }

  #apply(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
  ): MaybePromise<void> {
    switch (kind) {
      case 'write':
        return this.#below.write(offset, data!, fua);
      case 'writeZeroes':
        return this.#below.writeZeroes(offset, length, fua, mayTrim);
      case 'trim':
        return this.#below.trim(offset, length, fua);
      case 'flush':
        return this.#below.flush();
      default:
        return unreachable(kind, 'mutation');
    }
  }

  /** Changes that wait for their turn have been accepted: they are carried out before the device is closed. */
  async #finish(): Promise<void> {
    const volume = this.#volume;
    volume.isClosed = true;
    while (volume.lock.size > 0) await volume.lock.drain();
    await this.#below.close();
    await volume.forget();
  }
}
