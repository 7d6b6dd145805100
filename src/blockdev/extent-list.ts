// Builds the answer of extents(): pieces in order, neighbours of one state merged, the range covered exactly.
// It must never leave a gap: what a device knows nothing about is data.
import { fail } from '../base/assert.ts';
import type { Extent } from './block-device.ts';

/** A range in more pieces than this is told as unknown from there on: an answer must have an end. */
export const MAX_EXTENTS = 16_384;

export class ExtentList {
  readonly #extents: Extent[] = [];
  readonly #end: number;
  #at: number;

  /** @param offset bytes @param length bytes: the range that the finished list covers */
  constructor(offset: number, length: number) {
    this.#at = offset;
    this.#end = offset + length;
  }

  /** Where the next piece begins, bytes. */
  get at(): number {
    return this.#at;
  }

  /** How many extents there are so far. */
  get count(): number {
    return this.#extents.length;
  }

  /** Adds everything up to `end` (cut at the range's end; nothing when it lies before {@link at}) with one state. */
  addUntil(end: number, hole: boolean, zero: boolean): void {
    const until = Math.min(end, this.#end);
    if (until <= this.#at) return;
    const last = this.#extents.at(-1);
    if (last && last.hole === hole && last.zero === zero) {
      this.#extents[this.#extents.length - 1] = { ...last, length: until - last.offset };
    } else {
      this.#extents.push({ offset: this.#at, length: until - this.#at, hole, zero });
    }
    this.#at = until;
  }

  /**
   * Adds pieces as another device tells them.
   * @returns false when it left the rest open: {@link giveUp} then, or ask again
   */
  addKnown(extents: readonly Extent[]): boolean {
    for (const { offset, length, hole, zero, unknown } of extents) {
      if (unknown) return false;
      this.addUntil(offset + length, hole, zero);
    }
    return true;
  }

  /** Whether the list covers its range. */
  get isWhole(): boolean {
    return this.#at >= this.#end;
  }

  /** The list with its rest left open: nobody has looked there. */
  giveUp(): Extent[] {
    if (this.#at < this.#end) {
      const length = this.#end - this.#at;
      this.#extents.push({ offset: this.#at, length, hole: false, zero: false, unknown: true });
      this.#at = this.#end;
    }
    return this.#extents;
  }

  /** The finished list. */
  finish(): Extent[] {
    if (this.#at < this.#end) fail(`extents stop at ${this.#at}, before the end ${this.#end}`);
    return this.#extents;
  }
}
