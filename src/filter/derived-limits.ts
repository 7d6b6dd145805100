// The limits of a filter that changes some of those below it. They are worked out again only when those below were
// replaced, so that asking for them costs a comparison.
import type { BlockDevice, DeviceLimits } from '../blockdev/block-device.ts';

export class DerivedLimits {
  readonly #below: BlockDevice;
  readonly #change: (limits: DeviceLimits) => Partial<DeviceLimits>;
  #source: DeviceLimits | undefined;
  #current!: DeviceLimits;

  /** @param change what differs from the limits of `below` */
  constructor(below: BlockDevice, change: (limits: DeviceLimits) => Partial<DeviceLimits>) {
    this.#below = below;
    this.#change = change;
  }

  get current(): DeviceLimits {
    const source = this.#below.limits;
    if (source !== this.#source) {
      this.#source = source;
      this.#current = { ...source, ...this.#change(source) };
    }
    return this.#current;
  }
}
