// Reply headers, simple, structured and extended: the fast encoders of the hot path. They write where they are told and
// allocate nothing. The layouts of chunks are in structured-layouts.ts; tests hold these encoders against them.
import { struct } from '../wire/struct.ts';
import {
  NBD_ERROR,
  NBD_EXTENDED_REPLY_BYTES,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts';
import type { RequestHeader } from './request.ts';
import { chunkErrorStruct, offsetDataStruct, offsetHoleStruct } from './structured-layouts.ts';

/** What replies look like on a connection, as its handshake agreed. */
export type ReplyStyle = 'simple' | 'structured' | 'extended';

/** The header as documentation and tests read it; READ data follows when error is 0. Spec: "Simple reply message". */
export const simpleReplyStruct = struct('nbd simple reply', 'be', {
  magic: 'u32',
  error: 'u32',
  cookie: 'u64',
});

/** The offset before OFFSET_DATA's data; what an OFFSET_HOLE consists of; ERROR without, and with an offset. Bytes. */
export const OFFSET_BYTES = offsetDataStruct.sizeBytes;
export const HOLE_BYTES = offsetHoleStruct.sizeBytes;
export const ERROR_BYTES = chunkErrorStruct.sizeBytes;

/** Writes a 16-byte simple reply header at `at`. @param error an NBD_ERROR value */
export function encodeSimpleReply(
  target: Buffer,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  target.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  target.writeUInt32BE(error, at + 4);
  target.writeUInt32BE(cookieHigh, at + 8);
  target.writeUInt32BE(cookieLow, at + 12);
}

/** Bytes of a chunk's header. */
export function chunkHeaderBytes(style: ReplyStyle): number {
  return style === 'extended' ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;
}

/** Bytes in front of the data of a READ that is answered in one piece. */
export function readHeadBytes(style: ReplyStyle): number {
  return style === 'simple' ? NBD_SIMPLE_REPLY_BYTES : chunkHeaderBytes(style) + OFFSET_BYTES;
}

/**
 * Writes the header of a chunk at `at`.
 * @param flags NBD_REPLY_FLAG_* @param type of NBD_REPLY_TYPE
 * @param length bytes of payload, below 2^32
 * @returns where the payload begins
 */
export function encodeChunkHeader(
  style: ReplyStyle,
  target: Buffer,
  at: number,
  flags: number,
  type: number,
  request: RequestHeader,
  length: number,
): number {
  target.writeUInt16BE(flags, at + 4);
  target.writeUInt16BE(type, at + 6);
  target.writeUInt32BE(request.cookieHigh, at + 8);
  target.writeUInt32BE(request.cookieLow, at + 12);
  if (style !== 'extended') {
    target.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
    target.writeUInt32BE(length, at + 16);
    return at + NBD_STRUCTURED_REPLY_BYTES;
  }
  target.writeUInt32BE(NBD_EXTENDED_REPLY_MAGIC, at);
  target.writeUInt32BE(request.offsetHigh, at + 16);
  target.writeUInt32BE(request.offsetLow, at + 20);
  target.writeUInt32BE(0, at + 24);
  target.writeUInt32BE(length, at + 28);
  return at + NBD_EXTENDED_REPLY_BYTES;
}

/** Writes what stands before the data of a READ that is answered in one piece, {@link readHeadBytes}. */
export function encodeReadHead(
  style: ReplyStyle,
  target: Buffer,
  at: number,
  request: RequestHeader,
  length: number,
): void {
  if (style === 'simple') {
    encodeSimpleReply(target, at, NBD_ERROR.OK, request.cookieHigh, request.cookieLow);
    return;
  }
  const type = NBD_REPLY_TYPE.OFFSET_DATA;
  const body = encodeChunkHeader(
    style,
    target,
    at,
    NBD_REPLY_FLAG_DONE,
    type,
    request,
    OFFSET_BYTES + length,
  );
  target.writeUInt32BE(request.offsetHigh, body);
  target.writeUInt32BE(request.offsetLow, body + 4);
}

/** A part of a READ's range that is told by a chunk of its own. */
export interface ReadChunk {
  /** On the disk, bytes. */
  readonly offset: number;
  readonly length: number;
  /** Reads as zeroes: no data are sent. */
  readonly hole: boolean;
}

/** Bytes of such a chunk without its data. */
export function readChunkHeadBytes(style: ReplyStyle, chunk: ReadChunk): number {
  return chunk.hole ? chunkHeaderBytes(style) + HOLE_BYTES : readHeadBytes(style);
}

/** Writes the chunk at `at`, but for its data. @param flags NBD_REPLY_FLAG_* @returns where the data begin, or the chunk ends */
export function encodeReadChunk(
  style: ReplyStyle,
  target: Buffer,
  at: number,
  flags: number,
  request: RequestHeader,
  { offset, length, hole }: ReadChunk,
): number {
  const type = hole ? NBD_REPLY_TYPE.OFFSET_HOLE : NBD_REPLY_TYPE.OFFSET_DATA;
  const payload = hole ? HOLE_BYTES : OFFSET_BYTES + length;
  const body = encodeChunkHeader(style, target, at, flags, type, request, payload);
  writeUInt64(target, offset, body);
  if (!hole) return body + OFFSET_BYTES;
  target.writeUInt32BE(length, body + OFFSET_BYTES);
  return body + HOLE_BYTES;
}

/**
 * An error chunk that ends its reply.
 * @param error an NBD_ERROR value other than OK
 * @param message for people; the caller has kept it far below 4096 bytes
 * @param offset where on the disk it went wrong, within the request; undefined when that isn't known
 */
export function encodeErrorChunk(
  style: ReplyStyle,
  request: RequestHeader,
  error: number,
  message: string,
  offset: number | undefined,
): Buffer {
  const text = Buffer.from(message);
  const type = offset === undefined ? NBD_REPLY_TYPE.ERROR : NBD_REPLY_TYPE.ERROR_OFFSET;
  const length = ERROR_BYTES + text.length + (offset === undefined ? 0 : OFFSET_BYTES);
  const bytes = Buffer.allocUnsafe(chunkHeaderBytes(style) + length);
  const body = encodeChunkHeader(style, bytes, 0, NBD_REPLY_FLAG_DONE, type, request, length);
  bytes.writeUInt32BE(error, body);
  bytes.writeUInt16BE(text.length, body + 4);
  text.copy(bytes, body + ERROR_BYTES);
  if (offset !== undefined) writeUInt64(bytes, offset, body + ERROR_BYTES + text.length);
  return bytes;
}

/** A number of at most 2^53 as 64 bits. */
export function writeUInt64(target: Buffer, value: number, at: number): void {
  const high = Math.floor(value / 2 ** 32);
  target.writeUInt32BE(high, at);
  target.writeUInt32BE(value - high * 2 ** 32, at + 4);
}
