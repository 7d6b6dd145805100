// What the hub may lack of one volume. A bit is set before the data is written and cleared only when the hub has said
// that the data is durable there; there must be no moment at which a change is in neither the map nor the hub.
//
// A change is in exactly one of two places. The base holds what the stream won't bring: it was written while the
// stream was off, or didn't fit the queue. A generation holds what the stream brings: it is dropped as a whole, when
// nothing of it is in flight and the hub has made everything up to its last sequence durable.
import { assert } from '../base/assert.ts';
import { Bitmap } from '../base/bitmap.ts';
import { DIRTY_GRANULARITY_BYTES } from '../base/limits.ts';

/** Closed generations below which an ack closes the current one: one that waits for its ack, one for a slow change. */
const ROTATING = 2;

/** Closed generations above which the newest are merged: each keeps pages of bits in memory. */
const MAX_CLOSED = 4;

/** Pages of bits above which the dirty bytes are estimated (from above) instead of counted: 1 TiB of disk. */
const MAX_COUNTED_PAGES = 512;

/** The age of what was dirty before this process began: nobody knows it. Older than every time. */
export const UNKNOWN_TIME_US = -1;

/** Where every bit is set as well before the change that it stands for is begun. Never throws. */
export interface DirtyShadow {
  readonly granularityBytes: number;
  /** What is set there and not known to be needless. A copy. */
  needed(): Bitmap;
  /** Whether what is set was found when the process began and is all that may be missing. */
  readonly isBelieved: boolean;
  mark(first: number, end: number): void;
  markAll(): void;
  grow(sizeBytes: number): void;
}

/** Changes that share their fate. Also the token of a change that is in flight. */
export class Generation {
  readonly bits: Bitmap;
  /** Changes that began and have not completed. */
  inFlight = 0;
  /** The newest entry of the stream that brings something of it; 0: none yet. */
  lastSequence = 0;
  /** When its first change began, Unix microseconds; 0: it's empty. */
  firstTimeUs = 0;
  /** Where its changes are now, once it was merged into another. */
  into: Generation | undefined;

  constructor(chunks: number) {
    this.bits = new Bitmap(chunks);
  }
}

/** A part of a range that the hub may lack, or has. */
export interface DirtyRun {
  /** Bytes, above 0. */
  readonly length: number;
  readonly isDirty: boolean;
}

/** Where the set bits end that begin at `from` in any of the maps; `from` when none is set there. */
function endOfDirty(maps: readonly Bitmap[], from: number): number {
  let end = from;
  for (let moved = true; moved; ) {
    moved = false;
    for (const map of maps) {
      if (end >= map.sizeBits || !map.test(end)) continue;
      end = map.nextClear(end);
      moved = true;
    }
  }
  return end;
}

/** The first bit from `from` on that is set in any of the maps; `end` when there is none. */
function nextDirty(maps: readonly Bitmap[], from: number, end: number): number {
  let next = end;
  for (const map of maps) {
    const found = map.nextSet(from);
    if (found !== -1 && found < next) next = found;
  }
  return next;
}

/** Remembers which chunks have changed. A map starts all dirty, or as its shadow remembers. */
export class DirtyMap {
  /** Bytes of disk that one bit stands for. */
  readonly granularityBytes: number;
  #sizeBytes: number;
  #chunks: number;
  readonly #shadow: DirtyShadow | undefined;
  readonly #nowUs: () => number;
  #base: Generation;
  #current: Generation;
  /** Oldest first. Their bits never change any more. */
  #closed: Generation[] = [];
  #streaming = false;
  #acked = 0;

  /**
   * @param sizeBytes of the volume
   * @param nowUs the clock, Unix microseconds
   * @param shadow keeps the bits beyond the end of the process; without one they are in memory only
   */
  constructor(sizeBytes: number, nowUs: () => number, shadow?: DirtyShadow) {
    this.granularityBytes = shadow?.granularityBytes ?? DIRTY_GRANULARITY_BYTES;
    this.#sizeBytes = sizeBytes;
    this.#chunks = Math.ceil(sizeBytes / this.granularityBytes);
    this.#nowUs = nowUs;
    this.#shadow = shadow;
    this.#base = this.#generation();
    this.#current = this.#generation();
    if (shadow?.isBelieved) this.recall();
    else this.reset();
  }

  /** Whether changes are expected to reach the hub by the stream. */
  get streaming(): boolean {
    return this.#streaming;
  }

  /**
   * To be called before a change of the range is begun.
   * @param length bytes, above 0
   * @returns what {@link complete} wants to have
   */
  begin(offset: number, length: number): Generation {
    const target = this.#streaming ? this.#current : this.#base;
    this.#mark(target, offset, length);
    target.inFlight += 1;
    return target;
  }

  /**
   * To be called when the change has ended, well or not, and in the same turn in which it entered the stream.
   * @param token what `begin` returned; undefined when it failed
   * @param sequence the (last) entry that brings it; 0 when it didn't enter the stream
   */
  complete(token: Generation | undefined, offset: number, length: number, sequence: number): void {
    let target = token;
    while (target?.into) target = target.into;
    const mirrored = sequence > 0 && this.#streaming;
    if (!target || !mirrored) this.#mark(this.#base, offset, length);
    if (!target) return;
    target.inFlight -= 1;
    if (mirrored && sequence > target.lastSequence) target.lastSequence = sequence;
    if (target !== this.#current && target.inFlight === 0) this.#sweep();
  }

  /** Everything up to `sequence` is durable at the hub. */
  acked(sequence: number): void {
    if (sequence > this.#acked) this.#acked = sequence;
    this.#sweep();
    const current = this.#current;
    if (current.bits.count === 0) return;
    if (current.inFlight === 0 && current.lastSequence <= this.#acked) {
      current.bits.clearAll();
      current.firstTimeUs = 0;
    } else if (this.#closed.length < ROTATING) {
      this.#closeCurrent();
    }
  }

  /** From here on changes go to the base. What the stream was to bring is kept apart. */
  streamOff(): void {
    this.#streaming = false;
    this.#closeCurrent();
  }

  /** The stream is about to begin anew, at a hub that has everything up to `sequence` and answers for it. */
  resume(sequence: number): void {
    this.streamOff();
    const kept: Generation[] = [];
    for (const generation of this.#closed) {
      if (generation.inFlight === 0 && generation.lastSequence <= sequence) kept.push(generation);
      else this.#merge(generation, this.#base);
    }
    this.#closed = kept;
  }

  /**
   * The stream is about to begin anew, at a hub that has everything but what the shadow holds: what it acknowledged,
   * it may have forgotten since, but not what it had recorded.
   */
  recall(): void {
    assert(this.#shadow, 'only a shadow can be recalled');
    this.streamOff();
    for (const generation of this.#closed) this.#merge(generation, this.#base);
    this.#closed = [];
    const needed = this.#shadow.needed();
    if (needed.count > this.#base.bits.count) this.#base.firstTimeUs ||= UNKNOWN_TIME_US;
    this.#base.bits.union(needed);
  }

  /** The stream is about to begin anew, at a hub that has nothing. */
  reset(): void {
    this.streamOff();
    for (const generation of this.#closed) this.#merge(generation, this.#base);
    this.#closed = [];
    this.#base.bits.setAll();
    this.#base.firstTimeUs = this.#nowUs();
    this.#shadow?.markAll();
  }

  /** What the shadow still takes for needed and nothing here needs any more, up to the newest acknowledgement. */
  retirable(): { readonly bits: Bitmap; readonly sequence: number } {
    const bits = this.#shadow?.needed() ?? new Bitmap(this.#chunks);
    for (const part of this.#parts()) bits.subtract(part.bits);
    return { bits, sequence: this.#acked };
  }

  /**
   * From here on changes go by the stream; what the base held is left to the entry that names it to the hub.
   * @param sequence the sequence of that entry
   * @returns the chunks that the entry has to name. They never change again.
   */
  streamOn(sequence: number): Bitmap {
    assert(!this.#streaming, 'the stream is on already');
    const named = this.#base;
    named.lastSequence = sequence;
    this.#base = this.#generation();
    this.#close(named);
    this.#streaming = true;
    return named.bits;
  }

  /** The volume became larger: what is new is missing at the hub. @param sizeBytes its size now */
  grow(sizeBytes: number): void {
    const before = this.#sizeBytes;
    assert(sizeBytes >= before, 'a volume only grows');
    this.#sizeBytes = sizeBytes;
    this.#chunks = Math.ceil(sizeBytes / this.granularityBytes);
    this.#shadow?.grow(sizeBytes);
    for (const { bits } of [this.#base, this.#current, ...this.#closed]) bits.grow(this.#chunks);
    if (sizeBytes > before) this.#mark(this.#base, before, sizeBytes - before);
  }

  /** Whether anything of the range may be missing at the hub. */
  isDirty(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.granularityBytes);
    const end = Math.ceil((offset + length) / this.granularityBytes);
    return this.#parts().some((part) => part.bits.testAny(first, end));
  }

  /**
   * Which parts of a range the hub may lack: runs from its start on, dirty and clean in turn.
   * @param length bytes, above 0 @param maxRuns where to stop
   */
  runs(offset: number, length: number, maxRuns: number): DirtyRun[] {
    const parts = this.#parts().map((part) => part.bits);
    const end = offset + length;
    const runs: DirtyRun[] = [];
    for (let at = offset; at < end && runs.length < maxRuns; ) {
      const chunk = Math.floor(at / this.granularityBytes);
      const dirtyEnd = endOfDirty(parts, chunk);
      const isDirty = dirtyEnd > chunk;
      const until = (isDirty ? dirtyEnd : nextDirty(parts, chunk, this.#chunks)) * this.granularityBytes;
      runs.push({ length: Math.min(until, end) - at, isDirty });
      at = until;
    }
    return runs;
  }

  /** Bytes that may be missing at the hub, in whole chunks; on huge disks an upper bound. */
  get dirtyBytes(): number {
    const maps = this.#parts().map((part) => part.bits);
    const only = maps.length === 1 ? maps[0]! : this.#joined(maps);
    const last = this.#chunks - 1;
    if (!only) {
      const sum = maps.reduce((bits, map) => bits + map.count, 0);
      return Math.min(this.#sizeBytes, sum * this.granularityBytes);
    }
    const beyondEnd = only.test(last) ? this.#chunks * this.granularityBytes - this.#sizeBytes : 0;
    return only.count * this.granularityBytes - beyondEnd;
  }

  /** When the oldest change began that may be missing at the hub, Unix microseconds; 0: nothing is; or unknown. */
  get oldestTimeUs(): number {
    let oldest = 0;
    for (const { firstTimeUs } of this.#parts()) {
      if (oldest === 0 || firstTimeUs < oldest) oldest = firstTimeUs;
    }
    return oldest;
  }

  #generation(): Generation {
    return new Generation(this.#chunks);
  }

  #mark(target: Generation, offset: number, length: number): void {
    if (target.firstTimeUs === 0) target.firstTimeUs = this.#nowUs();
    const first = Math.floor(offset / this.granularityBytes);
    const last = Math.floor((offset + length - 1) / this.granularityBytes);
    target.bits.set(first, last + 1);
    this.#shadow?.mark(first, last + 1);
  }

  #closeCurrent(): void {
    const current = this.#current;
    if (current.bits.count === 0) return;
    this.#current = this.#generation();
    this.#close(current);
  }

  #close(generation: Generation): void {
    if (generation.bits.count === 0) return;
    this.#closed.push(generation);
    if (this.#closed.length <= MAX_CLOSED) return;
    // Into a third one: the bits of a closed generation may be on their way to the hub.
    const merged = this.#generation();
    for (const each of this.#closed.splice(-2)) this.#merge(each, merged);
    this.#closed.push(merged);
  }

  #merge(from: Generation, into: Generation): void {
    into.bits.union(from.bits);
    into.inFlight += from.inFlight;
    into.lastSequence = Math.max(into.lastSequence, from.lastSequence);
    if (from.firstTimeUs !== 0 && (into.firstTimeUs === 0 || from.firstTimeUs < into.firstTimeUs)) {
      into.firstTimeUs = from.firstTimeUs;
    }
    from.into = into;
  }

  #sweep(): void {
    const closed = this.#closed;
    let isOver = false;
    for (const each of closed) isOver ||= each.inFlight === 0 && each.lastSequence <= this.#acked;
    if (!isOver) return;
    this.#closed = closed.filter((each) => each.inFlight > 0 || each.lastSequence > this.#acked);
  }

  #parts(): Generation[] {
    return [this.#base, this.#current, ...this.#closed].filter((part) => part.bits.count > 0);
  }

  /** All of `maps` in one, or undefined when that would take long. */
  #joined(maps: readonly Bitmap[]): Bitmap | undefined {
    const full = maps.find((map) => map.count === map.sizeBits);
    if (full) return full;
    const pages = maps.reduce((sum, map) => sum + map.pageCount, 0);
    if (pages > MAX_COUNTED_PAGES) return undefined;
    const joined = new Bitmap(this.#chunks);
    for (const map of maps) joined.union(map);
    return joined;
  }
}
