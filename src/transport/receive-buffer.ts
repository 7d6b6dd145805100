// Holds what has arrived on a connection and was not used up yet, contiguous, in one pooled slab. Bytes are joined
// once, when the unit they belong to is known to be incomplete; never chunk by chunk.
import type { Slab, SlabPool } from '../base/buffer-pool.ts';
import { KiB } from '../base/limits.ts';

/** What reads units (requests, frames) off the front of received bytes. */
export interface ByteConsumer {
  /** Contiguous bytes the unit at the front needs, as far as is known. Bounded by the consumer's own limits. */
  readonly wantBytes: number;
  /** Handles complete units at the start of `bytes` and returns how many bytes it used up. Throws to end the connection. */
  consume(bytes: Buffer): number;
}

/** Room beyond the unit at the front, so that what follows it in one read needs no second slab. */
const SLACK_BYTES = 64 * KiB;

export class ReceiveBuffer {
  readonly #pool: SlabPool;
  readonly #consumer: ByteConsumer;
  #slab: Slab | undefined;
  #start = 0;
  #end = 0;

  constructor(pool: SlabPool, consumer: ByteConsumer) {
    this.#pool = pool;
    this.#consumer = consumer;
  }

  /** Bytes that arrived and are not used up. */
  get pendingBytes(): number {
    return this.#end - this.#start;
  }

  /** Takes `chunk` in: handles what is complete and keeps a copy of the rest. */
  push(chunk: Buffer): void {
    if (this.pendingBytes > 0) {
      this.#append(chunk);
      this.drain();
      return;
    }
    const used = this.#consumer.consume(chunk);
    if (used < chunk.length) this.#append(chunk.subarray(used));
  }

  /** Keeps `chunk` without looking at it: for a consumer that asked to stop. */
  hold(chunk: Buffer): void {
    this.#append(chunk);
  }

  /** Lets the consumer go on with what is held. */
  drain(): void {
    if (this.pendingBytes === 0 || !this.#slab) return;
    const slab = this.#slab;
    // The consumer may end the connection while it works on the slab: hold it until it's done.
    slab.retain();
    try {
      this.#start += this.#consumer.consume(slab.bytes.subarray(this.#start, this.#end));
    } finally {
      slab.release();
    }
    if (this.#start === this.#end) this.clear();
  }

  /** Forgets everything and gives the slab back. */
  clear(): void {
    this.#slab?.release();
    this.#slab = undefined;
    this.#start = 0;
    this.#end = 0;
  }

  #append(chunk: Buffer): void {
    const pending = this.pendingBytes;
    const room = this.#slab ? this.#slab.bytes.length - this.#end : 0;
    if (room < chunk.length) {
      const needed = Math.max(pending + chunk.length, this.#consumer.wantBytes + SLACK_BYTES);
      const next = this.#pool.acquire(needed);
      if (this.#slab) {
        this.#slab.bytes.copy(next.bytes, 0, this.#start, this.#end);
        this.#slab.release();
      }
      this.#slab = next;
      this.#start = 0;
      this.#end = pending;
    }
    chunk.copy(this.#slab!.bytes, this.#end);
    this.#end += chunk.length;
  }
}
