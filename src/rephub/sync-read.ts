// One read of a protected volume that is on its way, and which of its sectors the answer may no longer set: newer
// data for them came by the stream, or they changed again and are read once more. Must never forget one of those.
import { Bitmap } from '../base/bitmap.ts';
import { SECTOR_BYTES } from '../base/limits.ts';

/** A byte range of a volume, whole sectors. */
export interface SectorRange {
  readonly offset: number;
  readonly length: number;
}

export class SyncRead {
  readonly offset: number;
  #length: number;
  readonly #superseded: Bitmap;
  #dropped = false;

  /** @param offset bytes @param length bytes; whole sectors */
  constructor(offset: number, length: number) {
    this.offset = offset;
    this.#length = length;
    this.#superseded = new Bitmap(length / SECTOR_BYTES);
  }

  get length(): number {
    return this.#length;
  }

  /** Only `length` bytes of its start were answered. @returns what of the rest nothing superseded, as `freshRuns` does */
  shorten(length: number): SectorRange[] {
    const rest = [...this.freshRuns(length)];
    this.#length = length;
    return rest;
  }

  /** The range is to be read again by someone else: the answer means nothing any more. */
  get dropped(): boolean {
    return this.#dropped;
  }

  drop(): void {
    this.#dropped = true;
  }

  /** The answer must not set what lies in [offset, offset + length). */
  supersede(offset: number, length: number): void {
    const from = Math.max(offset, this.offset);
    const to = Math.min(offset + length, this.offset + this.length);
    if (from >= to) return;
    this.#superseded.set((from - this.offset) / SECTOR_BYTES, (to - this.offset) / SECTOR_BYTES);
  }

  /** Whether the answer may set nothing of [offset, offset + length), which lies inside the read. */
  isSuperseded(offset: number, length: number): boolean {
    const from = (offset - this.offset) / SECTOR_BYTES;
    return this.#superseded.nextClear(from) >= from + length / SECTOR_BYTES;
  }

  /** What the answer may set: runs in ascending order, as offsets on the volume. @param start where in the read, bytes */
  *freshRuns(start = 0): Generator<SectorRange> {
    const bits = this.#superseded;
    const end = this.length / SECTOR_BYTES;
    for (let from = bits.nextClear(start / SECTOR_BYTES); from < end; ) {
      const next = bits.nextSet(from);
      const to = next === -1 ? end : Math.min(next, end);
      yield { offset: this.offset + from * SECTOR_BYTES, length: (to - from) * SECTOR_BYTES };
      from = bits.nextClear(to);
    }
  }
}
