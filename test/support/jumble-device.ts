// A device that is never in a hurry and keeps no order: each call is carried out and answered some turns of the event
// loop later, drawn from a seed. Calls in flight together overtake each other.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice, Extent } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { seededRandom } from '../../src/filter/random.ts';

/** Most turns of the event loop that a call waits. */
const MAX_TURNS = 4;

export class JumbleDevice extends PassThrough {
  readonly #random: () => number;

  constructor(below: BlockDevice, seed: number) {
    super(below);
    this.#random = seededRandom(seed);
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#later(() => super.read(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#later(() => super.write(offset, data, fua));
  }

  override flush(): MaybePromise<void> {
    return this.#later(() => super.flush());
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#later(() => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#later(() => super.writeZeroes(offset, length, fua, mayTrim));
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.#later(() => super.cache(offset, length));
  }

  override extents(offset: number, length: number): MaybePromise<Extent[]> {
    return this.#later(() => super.extents(offset, length));
  }

  async #later<T>(run: () => MaybePromise<T>): Promise<T> {
    const turns = 1 + Math.floor(this.#random() * MAX_TURNS);
    for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    return run();
  }
}
