// A sparse bitmap over a whole disk: pages of bits exist only where something is set, so an empty map of a
// 16 TiB disk costs nothing. Used as dirty map by the agent and as the set of regions to read by the hub.
import { assert } from './assert.ts';

/** Bits per page: 4 KiB of memory. */
const PAGE_BITS = 32_768;
const PAGE_WORDS = PAGE_BITS / 32;

/** A run of set bits: `start` inclusive, `end` exclusive. */
export interface BitRun {
  readonly start: number;
  readonly end: number;
}

export class Bitmap {
  readonly sizeBits: number;
  readonly #pages = new Map<number, Uint32Array>();
  readonly #setInPage = new Map<number, number>();
  #count = 0;

  constructor(sizeBits: number) {
    assert(Number.isSafeInteger(sizeBits) && sizeBits >= 0, `bitmap size ${sizeBits} is not a count`);
    this.sizeBits = sizeBits;
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  test(index: number): boolean {
    const page = this.#pages.get(Math.floor(index / PAGE_BITS));
    if (!page) return false;
    const bit = index % PAGE_BITS;
    return ((page[bit >>> 5]! >>> (bit & 31)) & 1) === 1;
  }

  /** Whether any bit of [start, end) is set. */
  testAny(start: number, end: number): boolean {
    const next = this.nextSet(start);
    return next !== -1 && next < end;
  }

  /** Sets the bits of [start, end). */
  set(start: number, end: number = start + 1): void {
    this.#check(start, end);
    for (let at = start; at < end; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const from = at - pageIndex * PAGE_BITS;
      const to = Math.min(PAGE_BITS, end - pageIndex * PAGE_BITS);
      let page = this.#pages.get(pageIndex);
      if (!page) {
        page = new Uint32Array(PAGE_WORDS);
        this.#pages.set(pageIndex, page);
      }
      this.#adjust(pageIndex, fillBits(page, from, to, true));
      at = pageIndex * PAGE_BITS + to;
    }
  }

  /** Clears the bits of [start, end). */
  clear(start: number, end: number = start + 1): void {
    this.#check(start, end);
    for (let at = start; at < end; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const from = at - pageIndex * PAGE_BITS;
      const to = Math.min(PAGE_BITS, end - pageIndex * PAGE_BITS);
      const page = this.#pages.get(pageIndex);
      if (page) this.#adjust(pageIndex, fillBits(page, from, to, false));
      at = pageIndex * PAGE_BITS + to;
    }
  }

  clearAll(): void {
    this.#pages.clear();
    this.#setInPage.clear();
    this.#count = 0;
  }

  /** Sets every bit that is set in `other`, which has the same size. */
  union(other: Bitmap): void {
    assert(other.sizeBits === this.sizeBits, 'union of bitmaps of different sizes');
    for (const run of other.runs()) this.set(run.start, run.end);
  }

  /** The first set bit at or after `from`, or -1. */
  nextSet(from: number): number {
    for (let at = from; at < this.sizeBits; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const page = this.#pages.get(pageIndex);
      if (page) {
        const found = findBit(page, at - pageIndex * PAGE_BITS, true);
        if (found !== -1) return pageIndex * PAGE_BITS + found;
        at = (pageIndex + 1) * PAGE_BITS;
      } else {
        const next = this.#nextPage(pageIndex);
        if (next === -1) return -1;
        at = next * PAGE_BITS;
      }
    }
    return -1;
  }

  /** The first clear bit at or after `from`; `sizeBits` when there is none. */
  nextClear(from: number): number {
    let at = from;
    while (at < this.sizeBits) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const page = this.#pages.get(pageIndex);
      if (!page) return at;
      const found = findBit(page, at - pageIndex * PAGE_BITS, false);
      if (found !== -1) return Math.min(this.sizeBits, pageIndex * PAGE_BITS + found);
      at = (pageIndex + 1) * PAGE_BITS;
    }
    return this.sizeBits;
  }

  /** Runs of set bits in ascending order. The map must not change while they are walked. */
  *runs(): Generator<BitRun> {
    for (let start = this.nextSet(0); start !== -1; ) {
      const end = this.nextClear(start);
      yield { start, end };
      start = end < this.sizeBits ? this.nextSet(end) : -1;
    }
  }

  #adjust(pageIndex: number, delta: number): void {
    if (delta === 0) return;
    this.#count += delta;
    const inPage = (this.#setInPage.get(pageIndex) ?? 0) + delta;
    if (inPage === 0) {
      this.#pages.delete(pageIndex);
      this.#setInPage.delete(pageIndex);
    } else {
      this.#setInPage.set(pageIndex, inPage);
    }
  }

  #nextPage(after: number): number {
    let best = -1;
    for (const pageIndex of this.#pages.keys()) {
      if (pageIndex > after && (best === -1 || pageIndex < best)) best = pageIndex;
    }
    return best;
  }

  #check(start: number, end: number): void {
    assert(
      start >= 0 && start <= end && end <= this.sizeBits,
      `bits [${start}, ${end}) outside 0..${this.sizeBits}`,
    );
  }
}

function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (((v + (v >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

/** Sets or clears bits [from, to) of one page; returns by how many the number of set bits changed. */
function fillBits(page: Uint32Array, from: number, to: number, value: boolean): number {
  let delta = 0;
  for (let at = from; at < to; ) {
    const word = at >>> 5;
    const first = at & 31;
    const last = Math.min(32, first + (to - at));
    const mask = last - first === 32 ? 0xffffffff : (((1 << (last - first)) - 1) << first) >>> 0;
    const before = page[word]!;
    const after = (value ? before | mask : before & ~mask) >>> 0;
    if (after !== before) {
      delta += popcount(after) - popcount(before);
      page[word] = after;
    }
    at += last - first;
  }
  return delta;
}

function findBit(page: Uint32Array, from: number, value: boolean): number {
  for (let word = from >>> 5, first = from & 31; word < PAGE_WORDS; word += 1, first = 0) {
    const bits = ((value ? page[word]! : ~page[word]!) & (0xffffffff << first)) >>> 0;
    if (bits !== 0) return word * 32 + (31 - Math.clz32(bits & -bits));
  }
  return -1;
}
