// Cuts the server's bytes into replies. A READ's payload is copied once, from where it arrived to where it belongs.
// Must never take a length from the server: how much payload follows is known from the request alone.
import { WireError } from '../wire/struct.ts';
import {
  NBD_ERROR,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts';

/** Knows the requests that wait for a reply. */
export interface ReplySink {
  /**
   * A reply's header arrived. The cookie is the request's, as its two halves.
   * @param error 0, or an NBD error value
   * @returns where the payload goes when one follows: only for a READ that succeeded. Not of length zero.
   * @throws WireError when no such request waits
   */
  replied(cookieHigh: number, cookieLow: number, error: number): Buffer | undefined;
  /** The payload that `replied` asked for is complete. */
  filled(): void;
}

export class ReplyParser {
  readonly #sink: ReplySink;
  readonly #header = Buffer.alloc(NBD_SIMPLE_REPLY_BYTES);
  #headerBytes = 0;
  #target: Buffer | undefined;
  #targetBytes = 0;

  constructor(sink: ReplySink) {
    this.#sink = sink;
  }

  /** Whether the bytes so far end at the end of a reply. */
  get atBoundary(): boolean {
    return this.#target === undefined && this.#headerBytes === 0;
  }

  /**
   * Takes the bytes of `source` in [start, end).
   * @throws WireError when they are no replies to what was asked; the connection can't be used further
   */
  push(source: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end) {
      if (this.#target) at = this.#fill(this.#target, source, at, end);
      else if (this.#headerBytes === 0 && end - at >= NBD_SIMPLE_REPLY_BYTES) {
        this.#reply(source, at);
        at += NBD_SIMPLE_REPLY_BYTES;
      } else at = this.#gather(source, at, end);
    }
  }

  #fill(target: Buffer, source: Buffer, at: number, end: number): number {
    const copied = source.copy(target, this.#targetBytes, at, end);
    this.#targetBytes += copied;
    if (this.#targetBytes === target.length) {
      this.#target = undefined;
      this.#sink.filled();
    }
    return at + copied;
  }

  #gather(source: Buffer, at: number, end: number): number {
    const copied = source.copy(this.#header, this.#headerBytes, at, end);
    this.#headerBytes += copied;
    if (this.#headerBytes === NBD_SIMPLE_REPLY_BYTES) {
      this.#headerBytes = 0;
      this.#reply(this.#header, 0);
    }
    return at + copied;
  }

  #reply(source: Buffer, at: number): void {
    const magic = source.readUInt32BE(at);
    // Chunks of structured replies are told apart here, once they are negotiated.
    if (magic !== NBD_SIMPLE_REPLY_MAGIC) {
      throw new WireError(
        magic === NBD_STRUCTURED_REPLY_MAGIC
          ? 'the server sent a structured reply, which was not negotiated'
          : `a reply begins with 0x${magic.toString(16).padStart(8, '0')}, which is no reply's magic`,
      );
    }
    const error = source.readUInt32BE(at + 4);
    this.#target = this.#sink.replied(source.readUInt32BE(at + 8), source.readUInt32BE(at + 12), error);
    this.#targetBytes = 0;
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
