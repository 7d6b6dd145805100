// Where a connection's bytes land, and are parsed: one pooled slab, filled contiguously. A partial message at its end
// moves to where it will fit whole, once; bytes that someone still uses are never written over.
import { assert } from '../base/assert.ts';
import type { Slab, SlabPool } from '../base/buffer-pool.ts';
import { KiB, MiB } from '../base/limits.ts';

/** Slab of a connection: at first, and grown while its reads fill it or its payloads need it, bytes. */
export const MIN_RECEIVE_BYTES = 64 * KiB;
export const MAX_RECEIVE_BYTES = 1 * MiB;

/** Less room than this is not worth a receive; moving a small partial message is cheaper. */
const MIN_ROOM_BYTES = 16 * KiB;

/** A message of this size is received up to its end exactly, so that the next one starts a buffer and needs no move. */
const EXACT_BYTES = 64 * KiB;

/** Reads that fill the buffer make it grow up to this; only large payloads make it grow further. */
const MAX_STREAM_BYTES = 256 * KiB;

/** So many receives in a row that use less than an eighth of the slab halve it. */
const QUIET_RECEIVES = 4096;

export class ReceiveBuffer {
  readonly #pool: SlabPool;
  #slab: Slab;
  #start = 0;
  #end = 0;
  #wantBytes = 1;
  #exact = false;
  #targetBytes = MIN_RECEIVE_BYTES;
  #quietReceives = 0;
  /** The memory given out last; the same object again while it is the same memory. */
  #region: Buffer;
  #regionStart = 0;

  constructor(pool: SlabPool) {
    this.#pool = pool;
    this.#slab = pool.acquire(this.#targetBytes);
    this.#region = this.#slab.bytes;
  }

  /** The slab that holds the bytes of [start, end). */
  get slab(): Slab {
    return this.#slab;
  }

  get bytes(): Buffer {
    return this.#slab.bytes;
  }

  /** Position in `bytes` of the first byte that is not used up. */
  get start(): number {
    return this.#start;
  }

  get end(): number {
    return this.#end;
  }

  get available(): number {
    return this.#end - this.#start;
  }

  /** Uses up the first `count` bytes. */
  consume(count: number): void {
    this.#start += count;
    assert(this.#start <= this.#end, 'more bytes used up than there were');
  }

  /** Throws away everything that arrived. */
  discard(): void {
    this.#start = this.#end;
    this.want(1, false);
  }

  /**
   * Says that nothing can go on before `count` contiguous bytes are there. The caller has checked it against a limit.
   * @param exact receive no byte beyond them: a large payload is expected behind, which shall land in its own memory
   */
  want(count: number, exact: boolean): void {
    this.#wantBytes = count;
    this.#exact = exact || count >= EXACT_BYTES;
    if (count > this.#targetBytes) this.#grow(count * 2, MAX_RECEIVE_BYTES);
  }

  /** Memory for the next receive: directly behind what is there. */
  region(): Buffer {
    this.#makeRoom();
    const bytes = this.#slab.bytes;
    const wantedEnd = this.#start + this.#wantBytes;
    const to = this.#exact && wantedEnd > this.#end ? wantedEnd : bytes.length;
    const same =
      this.#region.buffer === bytes.buffer &&
      this.#regionStart === this.#end &&
      this.#region.length === to - this.#end;
    if (!same) {
      this.#region = bytes.subarray(this.#end, to);
      this.#regionStart = this.#end;
    }
    return this.#region;
  }

  /** `count` bytes landed in the region given last. */
  filled(count: number): void {
    this.#end += count;
    assert(
      count <= this.#region.length && this.#end <= this.#slab.bytes.length,
      'received beyond the buffer',
    );
    if (count === this.#region.length && !this.#exact) {
      this.#grow(this.#targetBytes * 2, MAX_STREAM_BYTES);
      this.#quietReceives = 0;
    } else if (this.#end * 8 >= this.#targetBytes) {
      this.#quietReceives = 0;
    } else if (this.#targetBytes > MIN_RECEIVE_BYTES) {
      this.#quietReceives += 1;
      if (this.#quietReceives >= QUIET_RECEIVES) {
        this.#targetBytes /= 2;
        this.#quietReceives = 0;
      }
    }
  }

  /** Bytes that were received elsewhere: as if they had landed here. */
  add(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const count = bytes.copy(this.region(), 0, at);
      this.filled(count);
      at += count;
    }
  }

  /** A copy of what is not used up. */
  rest(): Buffer {
    return Buffer.from(this.#slab.bytes.subarray(this.#start, this.#end));
  }

  /** Gives the slab back. Only when nothing receives any more. */
  close(): void {
    this.#slab.release();
  }

  #grow(bytes: number, limit: number): void {
    while (this.#targetBytes < bytes && this.#targetBytes < limit) this.#targetBytes *= 2;
  }

  #makeRoom(): void {
    const pending = this.#end - this.#start;
    const capacity = this.#slab.bytes.length;
    const need = Math.max(this.#wantBytes, pending + 1);
    const alone = this.#slab.references === 1;
    if (pending === 0 && alone) {
      this.#start = 0;
      this.#end = 0;
      if (capacity >= need && capacity === this.#targetBytes) return;
    } else {
      const roomy = this.#exact || capacity - this.#end >= MIN_ROOM_BYTES;
      if (roomy && capacity - this.#start >= need) return;
      if (alone && capacity >= need) {
        this.#slab.bytes.copyWithin(0, this.#start, this.#end);
        this.#start = 0;
        this.#end = pending;
        return;
      }
    }
    this.#replace(Math.max(this.#targetBytes, need));
  }

  #replace(minBytes: number): void {
    const next = this.#pool.acquire(minBytes);
    const pending = this.#end - this.#start;
    if (pending > 0) this.#slab.bytes.copy(next.bytes, 0, this.#start, this.#end);
    this.#slab.release();
    this.#slab = next;
    this.#start = 0;
    this.#end = pending;
  }
}
