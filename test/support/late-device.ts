// A device whose changes are seen before they are answered, and halfway: the first half takes effect at once, the rest
// some turns of the event loop later, and the answer comes later still. For whoever reads while changes are in flight.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { seededRandom } from '../../src/filter/random.ts';

const MAX_TURNS = 6;
const SECTOR = 512;

export class LateDevice extends PassThrough {
  readonly #random: () => number;

  constructor(below: BlockDevice, seed: number) {
    super(below);
    this.#random = seededRandom(seed);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#inHalves(data.length, (from, to) =>
      super.write(offset + from, data.subarray(from, to), fua),
    );
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#inHalves(length, (from, to) => super.trim(offset + from, to - from, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#inHalves(length, (from, to) => super.writeZeroes(offset + from, to - from, fua, mayTrim));
  }

  async #inHalves(length: number, run: (from: number, to: number) => MaybePromise<void>): Promise<void> {
    const half = Math.ceil(length / SECTOR / 2) * SECTOR;
    await run(0, half);
    await this.#turns();
    if (half < length) await run(half, length);
    await this.#turns();
  }

  async #turns(): Promise<void> {
    const turns = Math.floor(this.#random() * MAX_TURNS);
    for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  }
}
