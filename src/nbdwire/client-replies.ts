// Cuts the server's bytes into replies, and holds each against the request that it answers. A READ's data are copied
// once, from where they arrived to where they belong. Must never believe a length before it has met what was asked for
// or a limit, nor call a READ good of which a byte is missing.
import { WireError } from '../wire/struct.ts';
import {
  NBD_CMD,
  NBD_ERROR,
  NBD_EXTENDED_REPLY_BYTES,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_MAX_STRING_BYTES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_MAGIC,
  nameOf,
} from './constants.ts';
import { quoteForeign } from './foreign-text.ts';
import { ERROR_BYTES, HOLE_BYTES, OFFSET_BYTES, type ReplyStyle } from './reply.ts';
import type { AwaitedRequest } from './reply-progress.ts';

/** Knows the requests that wait for a reply. */
export interface ReplySink<R extends AwaitedRequest> {
  /**
   * The request with that cookie, in its two halves.
   * @throws WireError when no such request waits
   */
  find(cookieHigh: number, cookieLow: number): R;
  /** The reply is complete: its error, or 0, is in `request.progress`. */
  completed(request: R): void;
}

const TWO_POW_32 = 2 ** 32;

/** Largest payload of an error chunk: the longest message, and an offset. */
const MAX_ERROR_BYTES = ERROR_BYTES + NBD_MAX_STRING_BYTES + OFFSET_BYTES;

/** Most extents in one chunk: what the protocol says that servers should not exceed. */
export const MAX_CHUNK_EXTENTS = 2 ** 20;

/** What the next bytes are. Data of a READ are apart: they go to the request's own memory. */
type Part = 'header' | 'dataOffset' | 'hole' | 'error' | 'status' | 'extent';

export class ReplyParser<R extends AwaitedRequest> {
  readonly #style: ReplyStyle;
  readonly #allocationId: number | undefined;
  readonly #sink: ReplySink<R>;
  readonly #held = Buffer.alloc(MAX_ERROR_BYTES);
  #heldBytes = 0;
  #part: Part = 'header';
  /** Bytes of the part, but for a header. */
  #partBytes = 0;
  #target: Buffer | undefined;
  #targetBytes = 0;
  // The chunk that is arriving.
  #request: R | undefined;
  #type = 0;
  #last = false;
  /** Bytes of its payload that belong to no part yet. */
  #left = 0;

  /**
   * @param style what was negotiated
   * @param allocationId the context whose extents BLOCK_STATUS tells, if that was negotiated
   */
  constructor(style: ReplyStyle, allocationId: number | undefined, sink: ReplySink<R>) {
    this.#style = style;
    this.#allocationId = allocationId;
    this.#sink = sink;
  }

  /** Whether the bytes so far end at the end of a reply or of a chunk of one. */
  get atBoundary(): boolean {
    return this.#target === undefined && this.#heldBytes === 0 && this.#part === 'header';
  }

  /** The request whose reply is arriving, for whoever looks for the culprit after a WireError. */
  get current(): R | undefined {
    return this.#request;
  }

  /**
   * Takes the bytes of `source` in [start, end).
   * @throws WireError when they are no replies to what was asked; the connection can't be used further
   */
  push(source: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end) {
      if (this.#target) {
        at = this.#fill(this.#target, source, at, end);
        continue;
      }
      const need = this.#part === 'header' ? this.#headerBytes(source, at, end) : this.#partBytes;
      if (this.#heldBytes === 0 && end - at >= need) {
        this.#take(source, at);
        at += need;
      } else at = this.#gather(source, at, end, need);
    }
  }

  #fill(target: Buffer, source: Buffer, at: number, end: number): number {
    const copied = source.copy(target, this.#targetBytes, at, end);
    this.#targetBytes += copied;
    if (this.#targetBytes === target.length) {
      this.#target = undefined;
      this.#chunkEnded();
    }
    return at + copied;
  }

  #gather(source: Buffer, at: number, end: number, need: number): number {
    const copied = source.copy(this.#held, this.#heldBytes, at, Math.min(end, at + need - this.#heldBytes));
    this.#heldBytes += copied;
    if (this.#heldBytes === need && (this.#part !== 'header' || need > 4)) {
      this.#heldBytes = 0;
      this.#take(this.#held, 0);
    }
    return at + copied;
  }

  /** Bytes of the header that begins here; 4 while it can't be known. */
  #headerBytes(source: Buffer, at: number, end: number): number {
    switch (this.#style) {
      case 'simple':
        return NBD_SIMPLE_REPLY_BYTES;
      case 'extended':
        return NBD_EXTENDED_REPLY_BYTES;
      case 'structured': {
        const held = this.#heldBytes > 0;
        if ((held ? this.#heldBytes : end - at) < 4) return 4;
        const magic = held ? this.#held.readUInt32BE(0) : source.readUInt32BE(at);
        return magic === NBD_SIMPLE_REPLY_MAGIC ? NBD_SIMPLE_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;
      }
    }
  }

  #take(source: Buffer, at: number): void {
    switch (this.#part) {
      case 'header':
        this.#takeHeader(source, at);
        return;
      case 'dataOffset':
        this.#takeData(offsetAt(source, at));
        return;
      case 'hole':
        this.#takeHole(offsetAt(source, at), source.readUInt32BE(at + OFFSET_BYTES));
        return;
      case 'error':
        this.#takeError(source, at, this.#partBytes);
        return;
      case 'status':
        this.#takeStatus(source, at);
        return;
      case 'extent':
        this.#takeExtent(source, at);
        return;
    }
  }

  #takeHeader(source: Buffer, at: number): void {
    const magic = source.readUInt32BE(at);
    if (magic === NBD_SIMPLE_REPLY_MAGIC && this.#style !== 'extended') this.#takeSimple(source, at);
    else if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.#style === 'structured') {
      this.#takeChunk(source, at, source.readUInt32BE(at + 16));
    } else if (magic === NBD_EXTENDED_REPLY_MAGIC && this.#style === 'extended') {
      this.#takeChunk(source, at, offsetAt(source, at + 24));
    } else throw new WireError(`a reply begins with ${magicName(magic)}`);
  }

  #takeSimple(source: Buffer, at: number): void {
    const error = source.readUInt32BE(at + 4);
    const request = this.#find(source, at);
    if (request.progress.begun) throw new WireError(`a simple reply behind chunks of one, to ${request}`);
    this.#last = true;
    if (this.#style !== 'simple' && mayHavePayload(request)) {
      throw new WireError(`a simple reply to ${request}, which takes a structured one`);
    }
    if (error !== NBD_ERROR.OK) request.progress.fail(error, '');
    else if (request.command === NBD_CMD.READ) {
      request.progress.coverage.add(request.offset, request.length);
      this.#awaitData(request.buffer!);
      return;
    }
    this.#chunkEnded();
  }

  #takeChunk(source: Buffer, at: number, length: number): void {
    this.#last = (source.readUInt16BE(at + 4) & NBD_REPLY_FLAG_DONE) !== 0;
    const type = source.readUInt16BE(at + 6);
    this.#type = type;
    const request = this.#find(source, at);
    request.progress.begun = true;
    if (this.#style === 'extended' && offsetAt(source, at + 16) !== request.offset) {
      throw new WireError(`a reply for offset ${offsetAt(source, at + 16)} to ${request}`);
    }
    switch (type) {
      case NBD_REPLY_TYPE.NONE:
        this.#check(length === 0 && this.#last, length);
        this.#chunkEnded();
        return;
      case NBD_REPLY_TYPE.OFFSET_DATA:
        this.#check(request.command === NBD_CMD.READ && length > OFFSET_BYTES, length);
        this.#check(length - OFFSET_BYTES <= request.length, length);
        this.#await('dataOffset', OFFSET_BYTES, length);
        return;
      case NBD_REPLY_TYPE.OFFSET_HOLE:
        this.#check(request.command === NBD_CMD.READ && length === HOLE_BYTES, length);
        this.#await('hole', HOLE_BYTES, length);
        return;
      case NBD_REPLY_TYPE.BLOCK_STATUS:
      case NBD_REPLY_TYPE.BLOCK_STATUS_EXT:
        this.#awaitStatus(request, length);
        return;
      default:
        this.#check(type >= 2 ** 15 && length >= ERROR_BYTES && length <= MAX_ERROR_BYTES, length);
        this.#await('error', length, length);
    }
  }

  #find(source: Buffer, at: number): R {
    this.#request = undefined;
    const request = this.#sink.find(source.readUInt32BE(at + 8), source.readUInt32BE(at + 12));
    if (request.progress.done) throw new WireError(`two replies to ${request}`);
    this.#request = request;
    return request;
  }

  #check(good: boolean, length: number): void {
    if (good) return;
    const what = nameOf(NBD_REPLY_TYPE, this.#type);
    throw new WireError(`a chunk of type ${what} and ${length} bytes in reply to ${this.#request}`);
  }

  #await(part: Part, bytes: number, left: number): void {
    this.#part = part;
    this.#partBytes = bytes;
    this.#left = left - bytes;
  }

  /** The data that follow go to `target`, which isn't empty. */
  #awaitData(target: Buffer): void {
    this.#target = target;
    this.#targetBytes = 0;
  }

  #takeData(offset: number): void {
    const request = this.#request!;
    request.progress.coverage.add(offset, this.#left);
    const start = offset - request.offset;
    const whole = this.#left === request.length;
    this.#awaitData(whole ? request.buffer! : request.buffer!.subarray(start, start + this.#left));
  }

  #takeHole(offset: number, length: number): void {
    const request = this.#request!;
    request.progress.coverage.add(offset, length);
    const start = offset - request.offset;
    request.buffer!.fill(0, start, start + length);
    this.#chunkEnded();
  }

  #takeError(source: Buffer, at: number, length: number): void {
    const request = this.#request!;
    const error = source.readUInt32BE(at);
    const messageBytes = source.readUInt16BE(at + 4);
    const behind = length - ERROR_BYTES - messageBytes;
    const hasOffset = this.#type === NBD_REPLY_TYPE.ERROR_OFFSET;
    // Of error chunks that nobody knows only the beginning is known.
    const fits = hasOffset ? behind === OFFSET_BYTES : behind === 0;
    this.#check(error !== 0, length);
    this.#check(fits || (this.#type !== NBD_REPLY_TYPE.ERROR && !hasOffset && behind >= 0), length);
    this.#check(messageBytes <= NBD_MAX_STRING_BYTES, length);
    const messageAt = at + ERROR_BYTES;
    const message = source.toString('utf8', messageAt, messageAt + messageBytes);
    const words: string[] = messageBytes > 0 ? [quoteForeign(message)] : [];
    if (hasOffset) {
      const offset = offsetAt(source, messageAt + messageBytes);
      this.#check(offset >= request.offset && offset - request.offset < request.length, length);
      words.push(`at ${offset}`);
    }
    request.progress.fail(error, words.join(' '));
    this.#chunkEnded();
  }

  #awaitStatus(request: R, length: number): void {
    const extended = this.#style === 'extended';
    const head = extended ? 8 : 4;
    const each = extended ? 16 : 8;
    const right = extended ? NBD_REPLY_TYPE.BLOCK_STATUS_EXT : NBD_REPLY_TYPE.BLOCK_STATUS;
    this.#check(request.command === NBD_CMD.BLOCK_STATUS && this.#type === right, length);
    const count = (length - head) / each;
    this.#check(Number.isInteger(count) && count >= 1 && count <= MAX_CHUNK_EXTENTS, length);
    if (request.progress.statusTold)
      throw new WireError(`the extents were told twice, in reply to ${request}`);
    request.progress.statusTold = true;
    this.#await('status', head, length);
  }

  #takeStatus(source: Buffer, at: number): void {
    const id = source.readUInt32BE(at);
    if (id !== this.#allocationId) throw new WireError(`the status of context ${id}, which was not selected`);
    const extended = this.#style === 'extended';
    const each = extended ? 16 : 8;
    this.#check(!extended || source.readUInt32BE(at + 4) * each === this.#left, this.#left);
    this.#await('extent', each, this.#left);
  }

  #takeExtent(source: Buffer, at: number): void {
    const request = this.#request!;
    const extended = this.#style === 'extended';
    const length = extended ? offsetAt(source, at) : source.readUInt32BE(at);
    const flags = source.readUInt32BE(extended ? at + 12 : at + 4);
    if (length === 0) throw new WireError(`an extent of no bytes, in reply to ${request}`);
    if (extended && source.readUInt32BE(at + 8) !== 0) {
      throw new WireError(`a status of more than 32 bits, in reply to ${request}`);
    }
    request.status!.add(length, flags);
    if (this.#left > 0) this.#left -= this.#partBytes;
    else this.#chunkEnded();
  }

  #chunkEnded(): void {
    this.#part = 'header';
    const request = this.#request!;
    if (!this.#last) return;
    const { progress } = request;
    if (progress.error === NBD_ERROR.OK) {
      if (request.command === NBD_CMD.READ && !progress.coverage.complete) {
        throw new WireError(`the reply to ${request} ended before all of it was delivered`);
      }
      if (request.command === NBD_CMD.BLOCK_STATUS && !progress.statusTold) {
        throw new WireError(`the reply to ${request} told nothing`);
      }
    }
    progress.done = true;
    this.#request = undefined;
    this.#sink.completed(request);
  }
}

/** Such a request has a structured reply when those were negotiated, whatever the outcome. */
function mayHavePayload(request: AwaitedRequest): boolean {
  return request.command === NBD_CMD.READ || request.command === NBD_CMD.BLOCK_STATUS;
}

/** A 64-bit number: exact below 2^53, and above that still larger than anything that is asked for. */
function offsetAt(source: Buffer, at: number): number {
  return source.readUInt32BE(at) * TWO_POW_32 + source.readUInt32BE(at + 4);
}

function magicName(magic: number): string {
  switch (magic) {
    case NBD_SIMPLE_REPLY_MAGIC:
      return "a simple reply's magic, where only extended ones are allowed";
    case NBD_STRUCTURED_REPLY_MAGIC:
      return "a structured reply's magic, which was not negotiated";
    case NBD_EXTENDED_REPLY_MAGIC:
      return "an extended reply's magic, which was not negotiated";
    default:
      return `0x${magic.toString(16).padStart(8, '0')}, which is no reply's magic`;
  }
}

/** Names of the error values, by value. */
const ERROR_NAMES: ReadonlyMap<number, keyof typeof NBD_ERROR> = new Map(
  Object.entries(NBD_ERROR).map(([name, value]) => [value, name as keyof typeof NBD_ERROR]),
);

/** What an error value of a reply means; one that the protocol doesn't know counts as EINVAL, as it asks clients to. */
export function replyErrorName(error: number): Exclude<keyof typeof NBD_ERROR, 'OK'> {
  const name = ERROR_NAMES.get(error);
  return name === undefined || name === 'OK' ? 'EINVAL' : name;
}
