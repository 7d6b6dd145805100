// The NBD request header: its layout, and the fast decoder of the hot path. Decoding allocates nothing and judges
// nothing but the magic; request-check.ts decides what is allowed.
import { struct } from '../wire/struct.ts';
import { NBD_CMD, NBD_REQUEST_MAGIC, nameOf } from './constants.ts';

/** The header as documentation and tests read it. Spec: "Request message". */
export const requestStruct = struct('nbd request', 'be', {
  magic: 'u32',
  flags: 'u16',
  type: 'u16',
  cookie: 'u64',
  offset: 'u64',
  length: 'u32',
});

const FLAGS_AT = 4;
const TYPE_AT = 6;
const COOKIE_AT = 8;
const OFFSET_AT = 16;
const LENGTH_AT = 24;

/** One request header. Made once per connection and filled again for every request. */
export class RequestHeader {
  flags = 0;
  type = 0;
  /** The client's opaque cookie, as two halves: a 64-bit number would allocate. */
  cookieHigh = 0;
  cookieLow = 0;
  /** Bytes. Exact below 2^53; larger ones are rounded but stay above every disk's size, so a range check refuses them. */
  offset = 0;
  /** Bytes. */
  length = 0;

  toString(): string {
    return `${nameOf(NBD_CMD, this.type)} flags=${this.flags} offset=${this.offset} length=${this.length}`;
  }
}

/**
 * Decodes the request header at `at`; the caller has made sure that 28 bytes are there.
 * @returns false when the magic is wrong: the stream is lost
 */
export function decodeRequest(source: Buffer, at: number, into: RequestHeader): boolean {
  if (source.readUInt32BE(at) !== NBD_REQUEST_MAGIC) return false;
  into.flags = source.readUInt16BE(at + FLAGS_AT);
  into.type = source.readUInt16BE(at + TYPE_AT);
  into.cookieHigh = source.readUInt32BE(at + COOKIE_AT);
  into.cookieLow = source.readUInt32BE(at + COOKIE_AT + 4);
  into.offset = source.readUInt32BE(at + OFFSET_AT) * 2 ** 32 + source.readUInt32BE(at + OFFSET_AT + 4);
  into.length = source.readUInt32BE(at + LENGTH_AT);
  return true;
}
