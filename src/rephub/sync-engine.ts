// What of a volume still has to be read from the agent, and what of each answer still counts. Pure: no sockets, no
// timers, no store. It must never take a range for read whose bytes may be older than the stream's position.
//
// The rule that makes one pass enough: every change of the stream is stored in order, always, and supersedes its
// sectors in the reads that are on their way; an answer sets only the sectors that nothing superseded. What an answer
// holds may be newer than the stream's position, up to its as-of sequence: once the stream has got there, all is one.
import { assert } from '../base/assert.ts';
import { Bitmap } from '../base/bitmap.ts';
import { DIRTY_GRANULARITY_BYTES, KiB, MiB, SECTOR_BYTES } from '../base/limits.ts';
import { MAX_WIDE_READ_BYTES } from '../repwire/constants.ts';
import { type SectorRange, SyncRead } from './sync-read.ts';

export interface SyncTuning {
  /** Bytes that one bit stands for. */
  readonly chunkBytes: number;
  /** Largest read, bytes; whole chunks. */
  readonly maxReadBytes: number;
  /** Largest read where the answers before were all zero, bytes; without it such reads are no larger. */
  readonly maxSparseReadBytes?: number;
  /** The same where an answer may be of the start of a read alone; without it they are no larger. */
  readonly maxWideReadBytes?: number;
  /** Most reads on their way. */
  readonly maxReads: number;
}

export const DEFAULT_SYNC_TUNING: SyncTuning = {
  chunkBytes: DIRTY_GRANULARITY_BYTES,
  maxReadBytes: 256 * KiB,
  maxSparseReadBytes: 2 * MiB,
  maxWideReadBytes: MAX_WIDE_READ_BYTES,
  maxReads: 8,
};

/** How many times larger the next read is while all that comes is zero. A wide one that was too large costs little. */
const GROWTH = 2;
const WIDE_GROWTH = 32;

/** Digests on their way: as many as an agent computes at one time. */
const MAX_COMPARES = 4;

export class SyncEngine {
  readonly #tuning: SyncTuning;
  #sizeBytes: number;
  #chunks: number;
  /** Chunks to ask for. A chunk is in one of pending, deferred, unsure, a read or a comparison on its way, or in step. */
  readonly #pending: Bitmap;
  /** Chunks that the agent could not read: asked for again only after `retryDeferred`. */
  readonly #deferred: Bitmap;
  /** Chunks of a read that failed: asked for one by one, to find the bad one. */
  readonly #careful: Bitmap;
  /** Chunks that may well be equal: to be compared by digests before anything is read. */
  readonly #unsure: Bitmap;
  /** Comparisons on their way. */
  #compares: SectorRange[] = [];
  #reads: SyncRead[] = [];
  #cursor = 0;
  /** Size of the next read: it grows while all that comes is zero. */
  #readBytes: number;
  #isWide = false;
  #targetSequence = 0;
  #totalBytes = 0;

  /** @param sizeBytes of the volume, whole sectors */
  constructor(sizeBytes: number, tuning: SyncTuning = DEFAULT_SYNC_TUNING) {
    assert(
      tuning.chunkBytes % SECTOR_BYTES === 0 && tuning.maxReadBytes % tuning.chunkBytes === 0,
      'chunks are whole sectors, reads are whole chunks',
    );
    this.#sizeBytes = sizeBytes;
    this.#tuning = tuning;
    this.#readBytes = tuning.maxReadBytes;
    this.#chunks = Math.ceil(sizeBytes / tuning.chunkBytes);
    this.#pending = new Bitmap(this.#chunks);
    this.#deferred = new Bitmap(this.#chunks);
    this.#careful = new Bitmap(this.#chunks);
    this.#unsure = new Bitmap(this.#chunks);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The volume became larger, and what is new was never read. Only while no read is on its way. */
  grow(sizeBytes: number): void {
    const before = this.#sizeBytes;
    assert(
      sizeBytes >= before && this.#reads.length === 0 && this.#compares.length === 0,
      'a volume only grows, and between connections',
    );
    this.#sizeBytes = sizeBytes;
    this.#chunks = Math.ceil(sizeBytes / this.#tuning.chunkBytes);
    for (const chunks of [this.#pending, this.#deferred, this.#careful, this.#unsure])
      chunks.grow(this.#chunks);
    this.markUnread(before, sizeBytes - before);
  }

  /** Nothing is left to read and no read is on its way. */
  get isComplete(): boolean {
    return this.#pending.count === 0 && this.#deferred.count === 0 && !this.#isBusy;
  }

  /** Nothing is left but what the agent could not read. */
  get isStuck(): boolean {
    return this.#pending.count === 0 && this.#deferred.count > 0 && !this.#isBusy;
  }

  /** Something is on its way, or about to be compared. */
  get #isBusy(): boolean {
    return this.#reads.length > 0 || this.#compares.length > 0 || this.#unsure.count > 0;
  }

  /** The stream must have come this far before what was read is consistent. */
  get targetSequence(): number {
    return this.#targetSequence;
  }

  /** Bytes that this round set out to read. */
  get totalBytes(): number {
    return this.#totalBytes;
  }

  /** Bytes that are not in step with the stream, reads on their way included. */
  get remainingBytes(): number {
    let bytes = this.#bytesOf(this.#pending) + this.#bytesOf(this.#deferred);
    bytes += this.#bytesOf(this.#unsure);
    for (const read of this.#reads) bytes += read.length;
    for (const compare of this.#compares) bytes += compare.length;
    return bytes;
  }

  /** The first offset that the agent could not read, or -1. */
  get firstDeferredOffset(): number {
    const chunk = this.#deferred.nextSet(0);
    return chunk === -1 ? -1 : chunk * this.#tuning.chunkBytes;
  }

  /** Counts progress anew: what is to be read from here on is a round of its own. */
  beginRound(): void {
    this.#totalBytes = this.remainingBytes;
  }

  /** What has to be read stays; the stream is another one, whose positions have nothing to do with the last one's. */
  rebase(): void {
    this.dropReads();
    this.#targetSequence = 0;
    this.beginRound();
  }

  /** Everything has to be read, from a stream that has nothing to do with an earlier one. */
  restart(): void {
    this.dropReads();
    this.markUnread(0, this.sizeBytes);
    this.#targetSequence = 0;
    this.#cursor = 0;
    this.beginRound();
  }

  /** What is to be read may well be equal: it is compared first, and only what differs is read. */
  compareFirst(): void {
    this.#unsure.union(this.#pending);
    this.#pending.clearAll();
  }

  /** Takes the next range to compare, or undefined: nothing to compare, or enough on its way. */
  takeCompare(): SectorRange | undefined {
    if (this.#compares.length >= MAX_COMPARES) return undefined;
    const first = this.#unsure.nextSet(0);
    if (first === -1) return undefined;
    const { chunkBytes, maxReadBytes } = this.#tuning;
    const end = Math.min(this.#unsure.nextClear(first), first + maxReadBytes / chunkBytes);
    this.#unsure.clear(first, end);
    const offset = first * chunkBytes;
    const compare = { offset, length: Math.min(end * chunkBytes, this.sizeBytes) - offset };
    this.#compares.push(compare);
    return compare;
  }

  /**
   * A comparison has ended, at this place of the stream.
   * @param equal false: it differs, or could not be compared, and is read
   * @returns whether the range is in step now; false also when it was to be read by then, or nobody asked
   */
  finishCompare(compare: SectorRange, equal: boolean): boolean {
    const at = this.#compares.indexOf(compare);
    if (at === -1) return false;
    this.#compares.splice(at, 1);
    if (!equal) this.#pending.set(...this.#chunksOf(compare));
    return equal;
  }

  /** The range has to be read (again), widened to whole chunks; what is on its way for it doesn't count. */
  markUnread(offset: number, length: number): void {
    if (length === 0) return;
    const first = Math.floor(offset / this.#tuning.chunkBytes);
    const end = Math.ceil((offset + length) / this.#tuning.chunkBytes);
    const before = this.remainingBytes;
    this.#deferred.clear(first, end);
    this.#unsure.clear(first, end);
    this.#pending.set(first, end);
    this.#totalBytes += Math.max(0, this.remainingBytes - before);
    const from = first * this.#tuning.chunkBytes;
    const to = Math.min(end * this.#tuning.chunkBytes, this.sizeBytes);
    for (const read of this.#reads) read.supersede(from, to - from);
  }

  /** The stream changed the range, and the change is stored before the answer of any read on its way. */
  mutated(offset: number, length: number): void {
    for (let i = 0; i < this.#reads.length; i += 1) this.#reads[i]!.supersede(offset, length);
    if (this.#pending.count > 0 || this.#deferred.count > 0 || this.#unsure.count > 0)
      this.#forgetCovered(offset, length);
  }

  /**
   * Takes the next range to ask for, or undefined: nothing to read at present, or enough on its way.
   * @param isWide the answer may be of its start alone
   */
  takeRead(isWide = false): SyncRead | undefined {
    this.#isWide = isWide;
    if (this.#reads.length >= this.#tuning.maxReads || this.#pending.count === 0) return undefined;
    let first = this.#pending.nextSet(this.#cursor);
    if (first === -1) first = this.#pending.nextSet(0);
    const end = this.#endOfRead(first);
    this.#pending.clear(first, end);
    this.#cursor = end < this.#chunks ? end : 0;
    const offset = first * this.#tuning.chunkBytes;
    const read = new SyncRead(offset, Math.min(end * this.#tuning.chunkBytes, this.sizeBytes) - offset);
    this.#reads.push(read);
    return read;
  }

  /**
   * The answer of `read` has come; the caller stores its fresh runs now, before any later change of the stream.
   * @param asOf the newest sequence that the data may contain
   * @param isZero all of it is zero: of a sparse disk larger ranges are asked for, as long as they are
   * @param answeredBytes so much of its start was answered; the rest is asked for again
   */
  finishRead(read: SyncRead, asOf: number, isZero = false, answeredBytes = read.length): void {
    this.#leave(read);
    this.#sizeNextRead(read, isZero, answeredBytes);
    this.#targetSequence = Math.max(this.#targetSequence, asOf);
    if (this.#careful.count > 0) this.#careful.clear(...this.#chunksOf(read));
    if (answeredBytes === read.length) return;
    // A chunk that became unread meanwhile was superseded as a whole, and is asked for already.
    for (const run of read.shorten(answeredBytes)) this.#pending.set(...this.#chunksOf(run));
  }

  /** The agent could not read it: asked for again chunk by chunk, and a single chunk only after `retryDeferred`. */
  failRead(read: SyncRead): void {
    this.#leave(read);
    const [first, end] = this.#chunksOf(read);
    const single = end - first === 1;
    for (let chunk = first; chunk < end; chunk += 1) {
      // The stream brought all of it meanwhile, or it became unread again and is asked for by another read.
      if (read.isSuperseded(...this.#bytesOfChunk(chunk))) continue;
      this.#careful.set(chunk);
      if (this.#pending.test(chunk)) continue;
      if (single) this.#deferred.set(chunk);
      else this.#pending.set(chunk);
    }
  }

  /** What the agent could not read is asked for again. */
  retryDeferred(): void {
    this.#pending.union(this.#deferred);
    this.#deferred.clearAll();
  }

  /** The reads on their way will not be answered, or their answers not stored: all of it is to be read again. */
  dropReads(): void {
    const reads = this.#reads;
    this.#reads = [];
    for (const compare of this.#compares.splice(0)) this.#unsure.set(...this.#chunksOf(compare));
    for (const read of reads) {
      read.drop();
      this.#pending.set(...this.#chunksOf(read));
    }
    this.retryDeferred();
    this.#careful.clearAll();
  }

  /** Whether any of the range is not in step with the stream. */
  isUnread(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.#tuning.chunkBytes);
    const end = Math.ceil((offset + length) / this.#tuning.chunkBytes);
    if (this.#pending.testAny(first, end) || this.#deferred.testAny(first, end)) return true;
    if (this.#unsure.testAny(first, end)) return true;
    return [...this.#reads, ...this.#compares].some(
      (read) => read.offset < offset + length && offset < read.offset + read.length,
    );
  }

  /** A change that covers a whole chunk brings all of it: there is nothing left to read there. */
  #forgetCovered(offset: number, length: number): void {
    const chunkBytes = this.#tuning.chunkBytes;
    const first = Math.ceil(offset / chunkBytes);
    const last = offset + length;
    const end = last === this.sizeBytes ? this.#chunks : Math.floor(last / chunkBytes);
    if (first >= end) return;
    this.#pending.clear(first, end);
    this.#deferred.clear(first, end);
    this.#unsure.clear(first, end);
  }

  #endOfRead(first: number): number {
    if (this.#careful.test(first)) return first + 1;
    const bytes = Math.min(this.#readBytes, this.#maxSparseBytes);
    const end = Math.min(this.#pending.nextClear(first), first + bytes / this.#tuning.chunkBytes);
    const careful = this.#careful.count > 0 ? this.#careful.nextSet(first) : -1;
    return careful === -1 ? end : Math.min(end, careful);
  }

  /** Largest read where all that comes is zero, bytes. */
  get #maxSparseBytes(): number {
    const { maxReadBytes, maxSparseReadBytes = maxReadBytes, maxWideReadBytes } = this.#tuning;
    return this.#isWide ? (maxWideReadBytes ?? maxSparseReadBytes) : maxSparseReadBytes;
  }

  #sizeNextRead(read: SyncRead, isZero: boolean, answeredBytes: number): void {
    const { maxReadBytes, maxSparseReadBytes = maxReadBytes } = this.#tuning;
    const isShort = answeredBytes < read.length;
    if (!isZero || (isShort && answeredBytes < maxSparseReadBytes)) this.#readBytes = maxReadBytes;
    else if (isShort) this.#readBytes = maxSparseReadBytes;
    // Of those that were asked for together only the first that has grown says anything new.
    else if (read.length === this.#readBytes)
      this.#readBytes = Math.min(this.#maxSparseBytes, read.length * (this.#isWide ? WIDE_GROWTH : GROWTH));
  }

  #leave(read: SyncRead): void {
    const at = this.#reads.indexOf(read);
    assert(at !== -1, 'a read was answered that is not on its way');
    this.#reads.splice(at, 1);
  }

  #chunksOf(read: SectorRange): [number, number] {
    const { chunkBytes } = this.#tuning;
    return [Math.floor(read.offset / chunkBytes), Math.ceil((read.offset + read.length) / chunkBytes)];
  }

  #bytesOfChunk(chunk: number): [offset: number, length: number] {
    const offset = chunk * this.#tuning.chunkBytes;
    return [offset, Math.min(this.#tuning.chunkBytes, this.sizeBytes - offset)];
  }

  #bytesOf(chunks: Bitmap): number {
    const last = this.#chunks - 1;
    const cut = chunks.test(last) ? this.#chunks * this.#tuning.chunkBytes - this.sizeBytes : 0;
    return chunks.count * this.#tuning.chunkBytes - cut;
  }
}
