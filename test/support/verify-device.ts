// Checks every read against what was written before: a shadow of the disk in memory. What can't be known (changes that
// overlap in flight, failed changes) is not checked until it is written again.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { SparseBytes } from './sparse-bytes.ts';

interface Flight {
  readonly offset: number;
  readonly end: number;
  /** Another change or this one's failure made the outcome unknown. */
  blurred: boolean;
}

export class VerifyDevice extends PassThrough {
  readonly #shadow = new SparseBytes();
  /** 1 where the content is known. */
  readonly #known = new SparseBytes();
  readonly #changes = new Set<Flight>();
  readonly #reads = new Set<Flight>();
  /** Bytes that were read and compared. A test that expects checks asserts that this is not 0. */
  checkedBytes = 0;

  /** @param startsZero whether a disk never written is known to read as zeroes */
  constructor(below: BlockDevice, options: { readonly startsZero: boolean }) {
    super(below);
    if (options.startsZero) this.#known = new SparseBytes((page) => page.fill(1));
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    const end = offset + target.length;
    const flight = { offset, end, blurred: overlapping(this.#changes, offset, end).length > 0 };
    const result = super.read(offset, target);
    if (!(result instanceof Promise)) {
      if (!flight.blurred) this.#compare(offset, target);
      return;
    }
    this.#reads.add(flight);
    return result
      .finally(() => this.#reads.delete(flight))
      .then(() => {
        if (!flight.blurred) this.#compare(offset, target);
      });
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    const content = Buffer.from(data);
    return this.#change(offset, data.length, content, () => super.write(offset, data, fua));
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change(offset, length, undefined, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#change(offset, length, undefined, () => super.writeZeroes(offset, length, fua, mayTrim));
  }

  #change(
    offset: number,
    length: number,
    content: Buffer | undefined,
    run: () => MaybePromise<void>,
  ): MaybePromise<void> {
    const end = offset + length;
    const others = overlapping(this.#changes, offset, end);
    for (const other of [...others, ...overlapping(this.#reads, offset, end)]) other.blurred = true;
    const flight = { offset, end, blurred: others.length > 0 };
    const ended = (): void => {
      this.#changes.delete(flight);
      this.#known.fill(offset, length, flight.blurred ? 0 : 1);
      if (content) this.#shadow.write(offset, content);
      else this.#shadow.zero(offset, length);
    };
    const failed = (error: unknown): never => {
      flight.blurred = true;
      ended();
      throw error;
    };
    this.#changes.add(flight);
    let result: MaybePromise<void>;
    try {
      result = run();
    } catch (error) {
      return failed(error);
    }
    return result instanceof Promise ? result.then(ended, failed) : ended();
  }

  #compare(offset: number, got: Buffer): void {
    const expected = this.#shadow.slice(offset, got.length);
    const known = this.#known.slice(offset, got.length);
    for (let at = 0; at < got.length; at += 1) {
      if (known[at] !== 1) continue;
      this.checkedBytes += 1;
      if (got[at] !== expected[at]) {
        throw new Error(`byte ${offset + at} reads as ${got[at]}, but ${expected[at]} was written`);
      }
    }
  }
}

function overlapping(flights: ReadonlySet<Flight>, offset: number, end: number): Flight[] {
  return [...flights].filter((flight) => flight.offset < end && offset < flight.end);
}
