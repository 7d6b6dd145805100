// Encodes the requests of the transmission phase, by hand since it is the hot path. A cookie is two 32-bit halves,
// so that no BigInt is made per request.
import {
  NBD_CMD,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
} from './constants.ts';

const TWO_POW_32 = 2 ** 32;

/** Most bytes that a command without payload can name (TRIM, WRITE_ZEROES, CACHE): the length field has 32 bits. */
export const MAX_EFFECT_BYTES = TWO_POW_32 - 1;

/**
 * Writes a request header of 28 bytes at `at`; a WRITE's payload follows it on the wire.
 * @param offset bytes, at most 2^53 - 1
 * @param length bytes, at most 2^32 - 1
 */
export function encodeRequest(
  target: Buffer,
  at: number,
  command: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  encodeHead(target, at, NBD_REQUEST_MAGIC, flags, command, cookieHigh, cookieLow, offset);
  target.writeUInt32BE(length, at + 24);
}

/**
 * The same with extended headers, 32 bytes: nothing but the length is wider, and a payload has to be announced.
 * @param length bytes, at most 2^53 - 1
 */
export function encodeExtendedRequest(
  target: Buffer,
  at: number,
  command: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  const allFlags = command === NBD_CMD.WRITE ? flags | NBD_CMD_FLAG_PAYLOAD_LEN : flags;
  encodeHead(target, at, NBD_EXTENDED_REQUEST_MAGIC, allFlags, command, cookieHigh, cookieLow, offset);
  target.writeUInt32BE(Math.floor(length / TWO_POW_32), at + 24);
  target.writeUInt32BE(length % TWO_POW_32, at + 28);
}

/** What comes before the length. */
function encodeHead(
  target: Buffer,
  at: number,
  magic: number,
  flags: number,
  command: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
): void {
  target.writeUInt32BE(magic, at);
  target.writeUInt16BE(flags, at + 4);
  target.writeUInt16BE(command, at + 6);
  target.writeUInt32BE(cookieHigh, at + 8);
  target.writeUInt32BE(cookieLow, at + 12);
  target.writeUInt32BE(Math.floor(offset / TWO_POW_32), at + 16);
  target.writeUInt32BE(offset % TWO_POW_32, at + 20);
}

/** The request that ends the transmission phase; it has no reply. */
export function disconnectRequest(extended: boolean): Buffer {
  const header = Buffer.alloc(extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES);
  const encode = extended ? encodeExtendedRequest : encodeRequest;
  encode(header, 0, NBD_CMD.DISC, 0, 0, 0, 0, 0);
  return header;
}
