// A sparse bitmap over a whole disk: pages of bits exist only where something is set, and pages that are set
// throughout share their memory, so that an empty or a full map of a 16 TiB disk costs next to nothing. Used as dirty
// map by the agent and as the set of regions to read by the hub. It must never count a bit twice.
import { assert, fail } from './assert.ts';

/** Bits per page: 4 KiB of memory. */
export const PAGE_BITS = 32_768;
const PAGE_WORDS = PAGE_BITS / 32;

/** Bytes of one page. */
export const PAGE_BYTES = PAGE_BITS / 8;

/** Absent pages that a search steps over one by one before it looks through the list of those that exist. */
const STEP_PAGES = 64;

/** The words of every page that is set throughout. Never written to. */
const FULL_WORDS = new Uint32Array(PAGE_WORDS).fill(0xffffffff);

/** A run of set bits: `start` inclusive, `end` exclusive. */
export interface BitRun {
  readonly start: number;
  readonly end: number;
}

interface Page {
  words: Uint32Array;
  /** How many bits are set; a page without any doesn't stay in the map. */
  count: number;
}

export class Bitmap {
  #sizeBits: number;
  readonly #pages = new Map<number, Page>();
  #count = 0;
  /** The page that a single bit was set in last: the next one is likely to be in it too. */
  #recentIndex = -1;
  #recent: Page | undefined;

  constructor(sizeBits: number) {
    assert(Number.isSafeInteger(sizeBits) && sizeBits >= 0, `bitmap size ${sizeBits} is not a count`);
    this.#sizeBits = sizeBits;
  }

  get sizeBits(): number {
    return this.#sizeBits;
  }

  /** Makes the map larger; the bits that are new are clear. */
  grow(sizeBits: number): void {
    assert(
      Number.isSafeInteger(sizeBits) && sizeBits >= this.#sizeBits,
      `a bitmap of ${this.#sizeBits} bits cannot have ${sizeBits}: it only grows`,
    );
    this.#sizeBits = sizeBits;
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  /** Pages in memory: what a walk over the whole map costs. */
  get pageCount(): number {
    return this.#pages.size;
  }

  test(index: number): boolean {
    const pageIndex = Math.floor(index / PAGE_BITS);
    const page = this.#pages.get(pageIndex);
    if (!page) return false;
    const bit = index - pageIndex * PAGE_BITS;
    return ((page.words[bit >>> 5]! >>> (bit & 31)) & 1) === 1;
  }

  /** Whether any bit of [start, end) is set. */
  testAny(start: number, end: number): boolean {
    const next = this.nextSet(start);
    return next !== -1 && next < end;
  }

  /** Sets the bits of [start, end). */
  set(start: number, end: number = start + 1): void {
    this.#check(start, end);
    if (end - start === 1) {
      this.#setOne(start);
      return;
    }
    for (let at = start; at < end; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const from = at - pageIndex * PAGE_BITS;
      const to = Math.min(PAGE_BITS, end - pageIndex * PAGE_BITS);
      if (to - from === PAGE_BITS) this.#fillPage(pageIndex);
      else this.#setWithin(pageIndex, from, to);
      at = pageIndex * PAGE_BITS + to;
    }
  }

  /** Sets every bit. */
  setAll(): void {
    if (this.#count < this.sizeBits) this.set(0, this.sizeBits);
  }

  /** Clears the bits of [start, end). */
  clear(start: number, end: number = start + 1): void {
    this.#check(start, end);
    for (let at = start; at < end; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const from = at - pageIndex * PAGE_BITS;
      const to = Math.min(PAGE_BITS, end - pageIndex * PAGE_BITS);
      const page = this.#pages.get(pageIndex);
      if (page) this.#clearWithin(page, pageIndex, from, to);
      at = pageIndex * PAGE_BITS + to;
    }
  }

  clearAll(): void {
    this.#pages.clear();
    this.#forgetRecent();
    this.#count = 0;
  }

  /** Sets every bit that is set in `other`, which has the same size. */
  union(other: Bitmap): void {
    assert(other.sizeBits === this.sizeBits, 'union of bitmaps of different sizes');
    for (const [pageIndex, theirs] of other.#pages) {
      const mine = this.#pages.get(pageIndex);
      if (!mine) {
        const words = theirs.words === FULL_WORDS ? FULL_WORDS : theirs.words.slice();
        this.#pages.set(pageIndex, { words, count: theirs.count });
        this.#count += theirs.count;
      } else if (mine.count < PAGE_BITS) {
        const added = addWords(mine.words, theirs.words);
        mine.count += added;
        this.#count += added;
      }
    }
  }

  /** Clears every bit that is set in `other`, which has the same size. */
  subtract(other: Bitmap): void {
    assert(other.sizeBits === this.sizeBits, 'difference of bitmaps of different sizes');
    if (this.#count === 0) return;
    for (const pageIndex of other.#pages.keys()) this.subtractPage(other, pageIndex);
  }

  /** The same for one page of bits. */
  subtractPage(other: Bitmap, pageIndex: number): void {
    const mine = this.#pages.get(pageIndex);
    const theirs = other.#pages.get(pageIndex);
    if (!mine || !theirs) return;
    if (theirs.count === PAGE_BITS) {
      this.#count -= mine.count;
      this.#drop(pageIndex);
      return;
    }
    if (mine.words === FULL_WORDS) mine.words = FULL_WORDS.slice();
    const removed = dropWords(mine.words, theirs.words);
    mine.count -= removed;
    this.#count -= removed;
    if (mine.count === 0) this.#drop(pageIndex);
  }

  /** Clears the bits of one page. */
  clearPage(pageIndex: number): void {
    this.#count -= this.#pages.get(pageIndex)?.count ?? 0;
    this.#drop(pageIndex);
  }

  /** The indexes of pages with a bit set, ascending. */
  pageIndexes(): number[] {
    return [...this.#pages.keys()].sort((a, b) => a - b);
  }

  /** Puts the bits of one page into `target`, PAGE_BYTES; the lowest bit of the first byte is the page's first. */
  copyPage(pageIndex: number, target: Uint8Array): void {
    const page = this.#pages.get(pageIndex);
    if (!page) target.fill(0);
    else target.set(bytesOf(page.words));
  }

  /** Sets what is set in `source`, the bits of one page; those beyond the map's end are passed over. */
  addPage(pageIndex: number, source: Uint8Array): void {
    const words = new Uint32Array(PAGE_WORDS);
    bytesOf(words).set(source);
    const end = this.#sizeBits - pageIndex * PAGE_BITS;
    if (end < PAGE_BITS) fillBits(words, Math.max(0, end), PAGE_BITS, false);
    const page = this.#pages.get(pageIndex) ?? { words: new Uint32Array(PAGE_WORDS), count: 0 };
    if (page.count === PAGE_BITS) return;
    const added = addWords(page.words, words);
    page.count += added;
    this.#count += added;
    if (page.count > 0) this.#pages.set(pageIndex, page);
  }

  /** Eight bits, the first of them the lowest. @param byteIndex the eighth part of the first one's index */
  byteAt(byteIndex: number): number {
    const pageIndex = Math.floor(byteIndex / PAGE_BYTES);
    const page = this.#pages.get(pageIndex);
    if (!page) return 0;
    const at = byteIndex - pageIndex * PAGE_BYTES;
    return (page.words[at >>> 2]! >>> ((at & 3) * 8)) & 0xff;
  }

  /** The first set bit at or after `from`, or -1. */
  nextSet(from: number): number {
    let stepped = 0;
    for (let at = from; at < this.sizeBits; ) {
      const pageIndex = Math.floor(at / PAGE_BITS);
      const page = this.#pages.get(pageIndex);
      if (page) {
        const found = findBit(page.words, at - pageIndex * PAGE_BITS, true);
        if (found !== -1) return pageIndex * PAGE_BITS + found;
        at = (pageIndex + 1) * PAGE_BITS;
      } else if (stepped < STEP_PAGES) {
        stepped += 1;
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
      const found = page.count === PAGE_BITS ? -1 : findBit(page.words, at - pageIndex * PAGE_BITS, false);
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

  /** The common case of the hot path: no loop, and no look into the map while the page stays the same. */
  #setOne(index: number): void {
    const pageIndex = Math.floor(index / PAGE_BITS);
    const page = pageIndex === this.#recentIndex ? this.#recent! : this.#pageAt(pageIndex);
    const bit = index - pageIndex * PAGE_BITS;
    const before = page.words[bit >>> 5]!;
    const mask = 1 << (bit & 31);
    if ((before & mask) !== 0) return;
    page.words[bit >>> 5] = before | mask;
    page.count += 1;
    this.#count += 1;
  }

  #pageAt(pageIndex: number): Page {
    let page = this.#pages.get(pageIndex);
    if (!page) {
      page = { words: new Uint32Array(PAGE_WORDS), count: 0 };
      this.#pages.set(pageIndex, page);
    }
    this.#recentIndex = pageIndex;
    this.#recent = page;
    return page;
  }

  #setWithin(pageIndex: number, from: number, to: number): void {
    if (from === to) return;
    const page = this.#pageAt(pageIndex);
    if (page.count === PAGE_BITS) return;
    const added = fillBits(page.words, from, to, true);
    page.count += added;
    this.#count += added;
  }

  #fillPage(pageIndex: number): void {
    const page = this.#pages.get(pageIndex);
    this.#count += PAGE_BITS - (page?.count ?? 0);
    if (page) {
      page.words = FULL_WORDS;
      page.count = PAGE_BITS;
    } else {
      this.#pages.set(pageIndex, { words: FULL_WORDS, count: PAGE_BITS });
    }
  }

  #clearWithin(page: Page, pageIndex: number, from: number, to: number): void {
    if (to - from === PAGE_BITS) {
      this.#count -= page.count;
      this.#drop(pageIndex);
      return;
    }
    if (page.words === FULL_WORDS) page.words = FULL_WORDS.slice();
    const removed = -fillBits(page.words, from, to, false);
    page.count -= removed;
    this.#count -= removed;
    if (page.count === 0) this.#drop(pageIndex);
  }

  #drop(pageIndex: number): void {
    this.#pages.delete(pageIndex);
    if (pageIndex === this.#recentIndex) this.#forgetRecent();
  }

  #forgetRecent(): void {
    this.#recentIndex = -1;
    this.#recent = undefined;
  }

  #nextPage(after: number): number {
    let best = -1;
    for (const pageIndex of this.#pages.keys()) {
      if (pageIndex > after && (best === -1 || pageIndex < best)) best = pageIndex;
    }
    return best;
  }

  #check(start: number, end: number): void {
    if (!(start >= 0 && start <= end && end <= this.#sizeBits)) {
      fail(`bits [${start}, ${end}) outside 0..${this.#sizeBits}`);
    }
  }
}

function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (((v + (v >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

/** Sets in `target` what is set in `source`; returns how many bits that added. */
function addWords(target: Uint32Array, source: Uint32Array): number {
  let added = 0;
  for (let word = 0; word < PAGE_WORDS; word += 1) {
    const fresh = (source[word]! & ~target[word]!) >>> 0;
    if (fresh === 0) continue;
    target[word] = target[word]! | fresh;
    added += popcount(fresh);
  }
  return added;
}

/** Clears in `target` what is set in `source`; returns how many bits that took away. */
function dropWords(target: Uint32Array, source: Uint32Array): number {
  let removed = 0;
  for (let word = 0; word < PAGE_WORDS; word += 1) {
    const gone = (target[word]! & source[word]!) >>> 0;
    if (gone === 0) continue;
    target[word] = (target[word]! & ~gone) >>> 0;
    removed += popcount(gone);
  }
  return removed;
}

/** Words as bytes. Every machine that Node runs on here is little-endian. */
function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
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
