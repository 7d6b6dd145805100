// Bytes at any offset up to 2^53, kept only where something was written. The model that devices are compared with;
// it must stay simple enough to be right by looking at it.

/** Bytes per page of a {@link SparseBytes}. */
export const SPARSE_PAGE_BYTES = 4096;

/** Gives the initial content of the page that starts at `offset`. */
export type PageFill = (page: Buffer, offset: number) => void;

export class SparseBytes {
  readonly #pages = new Map<number, Buffer>();
  readonly #fill: PageFill | undefined;

  /** @param fill what is there before anything is written; zeroes when not given */
  constructor(fill?: PageFill) {
    this.#fill = fill;
  }

  /** Whether the page that holds `offset` was ever written. */
  isWritten(offset: number): boolean {
    return this.#pages.has(Math.floor(offset / SPARSE_PAGE_BYTES));
  }

  /** Where the two differ; undefined when they don't. Only for such that start as zeroes. */
  firstDifference(other: SparseBytes): number | undefined {
    for (const index of new Set([...this.#pages.keys(), ...other.#pages.keys()])) {
      const page = this.#pages.get(index) ?? this.#fresh(index);
      const theirs = other.#pages.get(index) ?? other.#fresh(index);
      if (!page.equals(theirs))
        return index * SPARSE_PAGE_BYTES + page.findIndex((byte, i) => byte !== theirs[i]);
    }
    return undefined;
  }

  read(offset: number, target: Buffer): void {
    eachPage(offset, target.length, (index, from, to, at) => {
      const page = this.#pages.get(index) ?? this.#fresh(index);
      page.copy(target, at, from, to);
    });
  }

  /** A copy of [offset, offset + length). */
  slice(offset: number, length: number): Buffer {
    const copy = Buffer.alloc(length);
    this.read(offset, copy);
    return copy;
  }

  write(offset: number, data: Uint8Array): void {
    eachPage(offset, data.length, (index, from, to, at) => {
      this.#own(index).set(data.subarray(at, at + to - from), from);
    });
  }

  fill(offset: number, length: number, value: number): void {
    eachPage(offset, length, (index, from, to) => {
      this.#own(index).fill(value, from, to);
    });
  }

  /** Zeroes a range of any size; where zeroes are what was there at first, whole pages are forgotten. */
  zero(offset: number, length: number): void {
    const end = offset + length;
    const first = Math.ceil(offset / SPARSE_PAGE_BYTES);
    const last = Math.floor(end / SPARSE_PAGE_BYTES);
    if (this.#fill || first >= last) {
      this.fill(offset, length, 0);
      return;
    }
    for (const index of [...this.#pages.keys()]) {
      if (index >= first && index < last) this.#pages.delete(index);
    }
    if (this.#pages.has(first - 1)) this.fill(offset, first * SPARSE_PAGE_BYTES - offset, 0);
    if (this.#pages.has(last)) this.fill(last * SPARSE_PAGE_BYTES, end - last * SPARSE_PAGE_BYTES, 0);
  }

  #own(index: number): Buffer {
    let page = this.#pages.get(index);
    if (!page) {
      page = this.#fresh(index);
      this.#pages.set(index, page);
    }
    return page;
  }

  #fresh(index: number): Buffer {
    const page = Buffer.alloc(SPARSE_PAGE_BYTES);
    this.#fill?.(page, index * SPARSE_PAGE_BYTES);
    return page;
  }
}

/** Calls `visit(pageIndex, from, to, at)` for each page that [offset, offset + length) touches; `at` counts from `offset`. */
function eachPage(
  offset: number,
  length: number,
  visit: (index: number, from: number, to: number, at: number) => void,
): void {
  for (let at = 0; at < length; ) {
    const index = Math.floor((offset + at) / SPARSE_PAGE_BYTES);
    const from = offset + at - index * SPARSE_PAGE_BYTES;
    const to = Math.min(SPARSE_PAGE_BYTES, from + length - at);
    visit(index, from, to, at);
    at += to - from;
  }
}
