// The NBD request header, compact and extended: its layout, and the fast decoders of the hot path. Decoding allocates
// nothing and judges nothing but the magic; request-check.ts decides what is allowed.
import { struct } from '../wire/struct.ts';
import { NBD_CMD, NBD_EXTENDED_REQUEST_MAGIC, NBD_REQUEST_MAGIC, nameOf } from './constants.ts';

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
  /** The offset as it came, as two halves: replies repeat it to the bit. */
  offsetHigh = 0;
  offsetLow = 0;
  /** Bytes. Exact below 2^53; larger ones are rounded but stay above every disk's size, so a range check refuses them. */
  offset = 0;
  /** Bytes, of the payload or of the disk. Rounded above 2^53, as the offset is. */
  length = 0;

  /** Takes over everything of `other`. */
  copyFrom(other: RequestHeader): void {
    this.flags = other.flags;
    this.type = other.type;
    this.cookieHigh = other.cookieHigh;
    this.cookieLow = other.cookieLow;
    this.offsetHigh = other.offsetHigh;
    this.offsetLow = other.offsetLow;
    this.offset = other.offset;
    this.length = other.length;
  }

  toString(): string {
    return `${nameOf(NBD_CMD, this.type)} flags=${this.flags} offset=${this.offset} length=${this.length}`;
  }
}

/**
 * Decodes the compact request header at `at`; the caller has made sure that 28 bytes are there.
 * @returns false when the magic is wrong: the stream is lost
 */
export function decodeRequest(source: Buffer, at: number, into: RequestHeader): boolean {
  if (source.readUInt32BE(at) !== NBD_REQUEST_MAGIC) return false;
  decodeCommon(source, at, into);
  into.length = source.readUInt32BE(at + LENGTH_AT);
  return true;
}

/** The same for an extended header, of 32 bytes. Spec: "Extended request message" of the extension. */
export function decodeExtendedRequest(source: Buffer, at: number, into: RequestHeader): boolean {
  if (source.readUInt32BE(at) !== NBD_EXTENDED_REQUEST_MAGIC) return false;
  decodeCommon(source, at, into);
  into.length = source.readUInt32BE(at + LENGTH_AT) * 2 ** 32 + source.readUInt32BE(at + LENGTH_AT + 4);
  return true;
}

function decodeCommon(source: Buffer, at: number, into: RequestHeader): void {
  into.flags = source.readUInt16BE(at + FLAGS_AT);
  into.type = source.readUInt16BE(at + TYPE_AT);
  into.cookieHigh = source.readUInt32BE(at + COOKIE_AT);
  into.cookieLow = source.readUInt32BE(at + COOKIE_AT + 4);
  const high = source.readUInt32BE(at + OFFSET_AT);
  const low = source.readUInt32BE(at + OFFSET_AT + 4);
  into.offsetHigh = high;
  into.offsetLow = low;
  into.offset = high * 2 ** 32 + low;
}
