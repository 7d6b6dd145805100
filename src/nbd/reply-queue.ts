// Replies on their way out, in pooled slabs: headers and READ data side by side where they are made, sent gathered,
// never copied. What a header looks like, the handshake decides, before the first reply. A slab goes back only when the kernel has taken its bytes, or the socket is dead.
import { assert } from '../base/assert.ts';
import type { Slab, SlabPool } from '../base/buffer-pool.ts';
import {
  NBD_ERROR,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_BYTES,
} from '../nbdwire/constants.ts';
import {
  chunkHeaderBytes,
  encodeChunkHeader,
  encodeErrorChunk,
  encodeReadHead,
  encodeSimpleReply,
  type ReplyStyle,
  readHeadBytes,
} from '../nbdwire/reply.ts';
import type { RequestHeader } from '../nbdwire/request.ts';
import { GATHER_BYTES, MAX_REPLY_BYTES, MIN_REPLY_BYTES } from './limits.ts';
import type { SlabTally } from './slab-tally.ts';

/** Memory of a READ that the device answers later. It has a reference on its slab. */
export interface DetachedRead {
  readonly slab: Slab;
  /** Where the data starts; with `headed`, the bytes before it are kept for its header. */
  readonly dataAt: number;
  readonly length: number;
  readonly headed: boolean;
}

export class ReplyQueue {
  readonly #pool: SlabPool;
  readonly #tally: SlabTally;
  readonly #send: (chunks: readonly Buffer[]) => void;
  /** The slab being filled; [#runStart, #at) of it is complete and waits. */
  #slab: Slab | undefined;
  #runStart = 0;
  #at = 0;
  #slabBytes = MIN_REPLY_BYTES;
  /** Complete chunks that wait for the next flush, each with a reference on its slab. */
  #chunks: Buffer[] = [];
  #chunkSlabs: Slab[] = [];
  /** Chunks that were sent and not reported as taken, oldest first. */
  #sentSlabs: Slab[] = [];
  #sentBytes: number[] = [];
  #waitingBytes = 0;
  #unsentBytes = 0;
  /** The read that is open, if its data lies in a slab of its own. */
  #ownSlab: Slab | undefined;
  #readLength = -1;
  #closed = false;
  #style: ReplyStyle = 'simple';
  /** Bytes before a READ's data. */
  #readHead = readHeadBytes('simple');

  /** @param tally counts the slabs of chunks until the kernel has taken them */
  constructor(pool: SlabPool, tally: SlabTally, send: (chunks: readonly Buffer[]) => void) {
    this.#pool = pool;
    this.#tally = tally;
    this.#send = send;
  }

  /** Bytes of complete replies that the kernel has not taken. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  get pool(): SlabPool {
    return this.#pool;
  }

  get style(): ReplyStyle {
    return this.#style;
  }

  /** What replies look like from here on. Before the first one only. */
  useStyle(style: ReplyStyle): void {
    assert(this.#readLength === -1, 'the style changes while a read is open');
    this.#style = style;
    this.#readHead = readHeadBytes(style);
  }

  /** Adds the reply to anything but a READ that went well: with structured replies too a simple one, since it is smaller. */
  addDone(request: RequestHeader): void {
    if (this.#style === 'extended') this.addNone(request);
    else this.#addSimple(request, NBD_ERROR.OK);
  }

  /** Adds a chunk that says no more than that all is well. Not for simple replies. */
  addNone(request: RequestHeader): void {
    if (this.#closed) return;
    const bytes = chunkHeaderBytes(this.#style);
    const slab = this.#room(bytes);
    const { NONE } = NBD_REPLY_TYPE;
    encodeChunkHeader(this.#style, slab.bytes, this.#at, NBD_REPLY_FLAG_DONE, NONE, request, 0);
    this.#advance(bytes);
  }

  /**
   * Adds the reply to a request that failed.
   * @param error an NBD_ERROR value @param message for the client's user; a simple reply can't carry it
   * @param offset where on the disk it went wrong, if that is known and lies within the request
   */
  addError(request: RequestHeader, error: number, message: string, offset?: number): void {
    if (this.#style === 'simple') this.#addSimple(request, error);
    else this.addBytes(encodeErrorChunk(this.#style, request, error, message, offset));
  }

  #addSimple(request: RequestHeader, error: number): void {
    if (this.#closed) return;
    const slab = this.#room(NBD_SIMPLE_REPLY_BYTES);
    encodeSimpleReply(slab.bytes, this.#at, error, request.cookieHigh, request.cookieLow);
    this.#advance(NBD_SIMPLE_REPLY_BYTES);
  }

  /** Adds complete messages of another kind, copied. */
  addBytes(bytes: Buffer): void {
    if (this.#closed) return;
    const slab = this.#room(bytes.length);
    bytes.copy(slab.bytes, this.#at);
    this.#advance(bytes.length);
  }

  /**
   * Memory for a READ's data, in place behind its header. One read is open at a time: commitRead, dropRead or
   * detachRead ends it. @param length bytes; the caller has checked it against a limit
   */
  openRead(length: number): Buffer {
    assert(this.#readLength === -1, 'a read is open already');
    this.#readLength = length;
    if (length * 2 >= MAX_REPLY_BYTES) {
      this.#ownSlab = this.#pool.acquire(length);
      return this.#ownSlab.bytes.subarray(0, length);
    }
    const slab = this.#room(this.#readHead + length);
    return slab.bytes.subarray(this.#at + this.#readHead, this.#at + this.#readHead + length);
  }

  /** The open read's data is there: its reply is complete. */
  commitRead(request: RequestHeader): void {
    const length = this.#readLength;
    this.#readLength = -1;
    const own = this.#ownSlab;
    if (own) {
      this.#ownSlab = undefined;
      this.#addOwn(own, length, request);
      return;
    }
    encodeReadHead(this.#style, this.#slab!.bytes, this.#at, request, length);
    this.#advance(this.#readHead + length);
  }

  /** The open read failed: its memory is used for what comes next. */
  dropRead(): void {
    this.#readLength = -1;
    this.#ownSlab?.release();
    this.#ownSlab = undefined;
  }

  /** The open read's data comes later: its memory leaves the queue until attachRead or releaseRead. */
  detachRead(): DetachedRead {
    const length = this.#readLength;
    this.#readLength = -1;
    const own = this.#ownSlab;
    if (own) {
      this.#ownSlab = undefined;
      return { slab: own, dataAt: 0, length, headed: false };
    }
    this.#seal();
    const slab = this.#slab!;
    slab.retain();
    const dataAt = this.#at + this.#readHead;
    this.#at = dataAt + length;
    this.#runStart = this.#at;
    return { slab, dataAt, length, headed: true };
  }

  /** The detached read's data is there: its reply is complete. */
  attachRead(read: DetachedRead, request: RequestHeader): void {
    if (this.#closed) {
      read.slab.release();
      return;
    }
    if (!read.headed) {
      this.#addOwn(read.slab, read.length, request);
      return;
    }
    const start = read.dataAt - this.#readHead;
    encodeReadHead(this.#style, read.slab.bytes, start, request, read.length);
    this.#addChunk(read.slab, start, read.dataAt + read.length);
    this.#count(this.#readHead + read.length);
  }

  /** Adds the first `length` bytes of `slab`, which are complete messages. Takes over the caller's reference. */
  addSlab(slab: Slab, length: number): void {
    if (this.#closed) {
      slab.release();
      return;
    }
    this.#addChunk(slab, 0, length);
    this.#count(length);
  }

  /** Sends everything that is complete, in one write. */
  flush(): void {
    this.#seal();
    if (this.#chunks.length === 0) return;
    const chunks = this.#chunks;
    for (let i = 0; i < chunks.length; i += 1) {
      this.#sentSlabs.push(this.#chunkSlabs[i]!);
      this.#sentBytes.push(chunks[i]!.length);
    }
    this.#chunks = [];
    this.#chunkSlabs.length = 0;
    this.#waitingBytes = 0;
    this.#send(chunks);
  }

  /** The kernel has taken the oldest chunk. */
  sent(): void {
    const slab = this.#sentSlabs.shift();
    assert(slab !== undefined, 'a chunk was taken that was never sent');
    this.#tally.remove(slab);
    slab.release();
    this.#unsentBytes -= this.#sentBytes.shift()!;
    if (this.#unsentBytes === 0) this.#rest();
  }

  /** Gives everything back, sent or not, and drops what is added later. Only when the socket is dead. */
  close(): void {
    this.#closed = true;
    for (const slab of [...this.#sentSlabs.splice(0), ...this.#chunkSlabs.splice(0)]) {
      this.#tally.remove(slab);
      slab.release();
    }
    this.#chunks = [];
    this.#sentBytes = [];
    this.#unsentBytes = 0;
    this.#waitingBytes = 0;
    this.#rest();
  }

  /** Nothing waits: an idle connection holds no reply memory. */
  #rest(): void {
    if (this.#readLength !== -1 && this.#ownSlab === undefined) return;
    this.#slab?.release();
    this.#slab = undefined;
    this.#runStart = 0;
    this.#at = 0;
  }

  /** Makes sure that `bytes` fit at #at. */
  #room(bytes: number): Slab {
    if (this.#slab && this.#slab.bytes.length - this.#at >= bytes) return this.#slab;
    if (this.#slab) {
      this.#seal();
      this.#slab.release();
      if (this.#slabBytes < MAX_REPLY_BYTES) this.#slabBytes *= 2;
    }
    this.#slab = this.#pool.acquire(Math.max(this.#slabBytes, bytes));
    this.#runStart = 0;
    this.#at = 0;
    return this.#slab;
  }

  #advance(bytes: number): void {
    this.#at += bytes;
    this.#count(bytes);
  }

  #count(bytes: number): void {
    this.#unsentBytes += bytes;
    this.#waitingBytes += bytes;
    if (this.#waitingBytes >= GATHER_BYTES) this.flush();
  }

  #addOwn(slab: Slab, length: number, request: RequestHeader): void {
    const head = this.#room(this.#readHead);
    encodeReadHead(this.#style, head.bytes, this.#at, request, length);
    this.#at += this.#readHead;
    this.#seal();
    this.#addChunk(slab, 0, length);
    this.#count(this.#readHead + length);
  }

  /** Takes over the caller's reference on `slab`. */
  #addChunk(slab: Slab, start: number, end: number): void {
    // What was completed before goes out before.
    this.#seal();
    this.#tally.add(slab);
    this.#chunks.push(slab.bytes.subarray(start, end));
    this.#chunkSlabs.push(slab);
  }

  /** Closes the run being filled. */
  #seal(): void {
    if (this.#runStart === this.#at) return;
    const slab = this.#slab!;
    slab.retain();
    this.#tally.add(slab);
    this.#chunks.push(slab.bytes.subarray(this.#runStart, this.#at));
    this.#chunkSlabs.push(slab);
    this.#runStart = this.#at;
  }
}
