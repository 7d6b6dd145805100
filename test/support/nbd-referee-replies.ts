// The referee's reading of replies: one simple reply, or one chunk of a structured or extended one, at a time.
import {
  NBD_CMD,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_ERROR,
  NBD_REPLY_TYPE,
} from '../../src/nbdwire/constants.ts';
import type { AskedRequest, Terms } from './nbd-referee-requests.ts';

const SIMPLE_MAGIC = 0x67446698;
const CHUNK_MAGIC = 0x668e33ef;
const EXTENDED_MAGIC = 0x6e8a278c;
/** A chunk of more than a request may carry, and a little. */
const MAX_CHUNK_BYTES = 65n * 1024n * 1024n;

/** An answer as far as it has come. */
export interface SeenReply {
  readonly request: AskedRequest;
  error: number;
  done: boolean;
  /** Of a READ, as it fills up. */
  data: Buffer | undefined;
  /** Ranges of a READ that came so far, and contexts of a BLOCK_STATUS. */
  readonly covered: Array<readonly [from: bigint, to: bigint]>;
  readonly contexts: Set<number>;
  chunks: number;
}

type Due = ReadonlyMap<bigint, readonly AskedRequest[]>;

/** Reads what stands at `at`. @returns the reply it belongs to and where the next begins, or what is wrong */
export function readReply(
  server: Buffer,
  at: number,
  terms: Terms,
  due: Due,
  partial: Map<bigint, SeenReply>,
): { readonly next: number; readonly reply: SeenReply } | string {
  if (server.length - at < 16) return `${server.length - at} bytes that are no reply`;
  const magic = server.readUInt32BE(at);
  if (terms.extended) {
    return magic === EXTENDED_MAGIC
      ? readChunk(server, at, terms, due, partial)
      : `reply magic ${magic.toString(16)}`;
  }
  if (magic === CHUNK_MAGIC && terms.structured) return readChunk(server, at, terms, due, partial);
  return magic === SIMPLE_MAGIC ? readSimple(server, at, terms, due) : `reply magic ${magic.toString(16)}`;
}

function begun(request: AskedRequest): SeenReply {
  return { request, error: 0, done: false, data: undefined, covered: [], contexts: new Set(), chunks: 0 };
}

function readSimple(
  server: Buffer,
  at: number,
  terms: Terms,
  due: Due,
): { readonly next: number; readonly reply: SeenReply } | string {
  const error = server.readUInt32BE(at + 4);
  const cookie = server.readBigUInt64BE(at + 8);
  const request = due.get(cookie)?.[0];
  if (!request) return `a reply with cookie ${cookie} answers nothing`;
  if (request.type === NBD_CMD.READ && terms.structured) return `${request.text}: a simple reply to READ`;
  const reply = { ...begun(request), error, done: true };
  if (request.type !== NBD_CMD.READ || error !== 0) return { next: at + 16, reply };
  const next = at + 16 + Number(request.length);
  reply.data = server.subarray(at + 16, next);
  return next <= server.length ? { next, reply } : `${request.text}: its data is cut off`;
}

function readChunk(
  server: Buffer,
  at: number,
  terms: Terms,
  due: Due,
  partial: Map<bigint, SeenReply>,
): { readonly next: number; readonly reply: SeenReply } | string {
  const headBytes = terms.extended ? 32 : 20;
  if (server.length - at < headBytes) return 'a chunk header is cut off';
  const flags = server.readUInt16BE(at + 4);
  const type = server.readUInt16BE(at + 6);
  const cookie = server.readBigUInt64BE(at + 8);
  const length = terms.extended ? server.readBigUInt64BE(at + 24) : BigInt(server.readUInt32BE(at + 16));
  const request = partial.get(cookie)?.request ?? due.get(cookie)?.[0];
  if (!request) return `a chunk with cookie ${cookie} answers nothing`;
  if (length > MAX_CHUNK_BYTES) return `${request.text}: a chunk of ${length} bytes`;
  if (terms.extended && server.readBigUInt64BE(at + 16) !== request.offset)
    return `${request.text}: other offset`;
  const next = at + headBytes + Number(length);
  if (next > server.length) return `${request.text}: a chunk is cut off`;
  const reply = partial.get(cookie) ?? begun(request);
  partial.set(cookie, reply);
  reply.chunks += 1;
  reply.done = (flags & 1) !== 0;
  const fault =
    (flags & ~1) !== 0
      ? `chunk flags ${flags}`
      : takeChunk(reply, type, server.subarray(at + headBytes, next), terms);
  const wrong = fault ?? (reply.done ? incomplete(reply, terms) : undefined);
  return wrong === undefined ? { next, reply } : `${request.text}: ${wrong}`;
}

/** @returns what is wrong with the chunk */
function takeChunk(reply: SeenReply, type: number, payload: Buffer, terms: Terms): string | undefined {
  if (type >= 2 ** 15) return takeError(reply, type, payload);
  switch (type) {
    case NBD_REPLY_TYPE.NONE:
      return payload.length > 0 || !reply.done ? 'NONE with data, or not at the end' : undefined;
    case NBD_REPLY_TYPE.OFFSET_DATA:
      if (payload.length <= 8) return 'OFFSET_DATA without data';
      return takeData(reply, payload.readBigUInt64BE(0), payload.subarray(8));
    case NBD_REPLY_TYPE.OFFSET_HOLE:
      if (payload.length !== 12 || payload.readUInt32BE(8) === 0) return 'OFFSET_HOLE of another form';
      return takeData(reply, payload.readBigUInt64BE(0), Buffer.alloc(payload.readUInt32BE(8)));
    case NBD_REPLY_TYPE.BLOCK_STATUS:
      return terms.extended ? 'BLOCK_STATUS with extended headers' : takeStatus(reply, payload, 8, 4, terms);
    case NBD_REPLY_TYPE.BLOCK_STATUS_EXT:
      return terms.extended
        ? takeStatus(reply, payload, 16, 8, terms)
        : 'BLOCK_STATUS_EXT without extended headers';
    default:
      return `chunk type ${type}`;
  }
}

function takeError(reply: SeenReply, type: number, payload: Buffer): string | undefined {
  if (payload.length < 6) return 'an error chunk without an error';
  const error = payload.readUInt32BE(0);
  const messageBytes = payload.readUInt16BE(4);
  const tail = type === NBD_REPLY_TYPE.ERROR_OFFSET ? 8 : 0;
  if (type !== NBD_REPLY_TYPE.ERROR && type !== NBD_REPLY_TYPE.ERROR_OFFSET)
    return `error chunk type ${type}`;
  if (payload.length !== 6 + messageBytes + tail || messageBytes > 4096)
    return 'an error message of wrong length';
  if (error === NBD_ERROR.OK) return 'an error chunk that is none';
  if (reply.error === NBD_ERROR.OK) reply.error = error;
  return undefined;
}

function takeData(reply: SeenReply, offset: bigint, bytes: Buffer): string | undefined {
  const { request } = reply;
  if (request.type !== NBD_CMD.READ) return 'data for what is no READ';
  const to = offset + BigInt(bytes.length);
  if (offset < request.offset || to > request.offset + request.length)
    return 'data outside of what was asked';
  if (reply.covered.some(([from, end]) => offset < end && from < to)) return 'the same data twice';
  reply.covered.push([offset, to]);
  reply.data ??= Buffer.alloc(Number(request.length));
  bytes.copy(reply.data, Number(offset - request.offset));
  return undefined;
}

function takeStatus(
  reply: SeenReply,
  payload: Buffer,
  extentBytes: number,
  wordBytes: 4 | 8,
  terms: Terms,
): string | undefined {
  const { request } = reply;
  const headBytes = wordBytes === 4 ? 4 : 8;
  if (request.type !== NBD_CMD.BLOCK_STATUS) return 'block status for what is none';
  const count = (payload.length - headBytes) / extentBytes;
  if (count < 1 || !Number.isInteger(count)) return `block status of ${payload.length} bytes`;
  if (wordBytes === 8 && payload.readUInt32BE(4) !== count) return 'a wrong count of extents';
  const id = payload.readUInt32BE(0);
  if (!terms.contexts.has(id)) return `block status of context ${id}`;
  if (reply.contexts.has(id)) return `context ${id} twice`;
  reply.contexts.add(id);
  let sum = 0n;
  for (let i = 0; i < count; i += 1) {
    const at = headBytes + i * extentBytes;
    const length = wordBytes === 4 ? BigInt(payload.readUInt32BE(at)) : payload.readBigUInt64BE(at);
    if (length === 0n) return 'an extent of no length';
    if (sum >= request.length) return 'an extent behind the end of what was asked';
    sum += length;
  }
  const one = (request.flags & NBD_CMD_FLAG_REQ_ONE) !== 0;
  if (one && (count !== 1 || sum > request.length)) return 'more than REQ_ONE allows';
  if (request.offset + sum > BigInt(terms.target.sizeBytes)) return 'an extent past the end of the disk';
  return undefined;
}

/** What a reply that says it is whole still lacks. */
function incomplete(
  { request, error, covered, contexts, chunks }: SeenReply,
  terms: Terms,
): string | undefined {
  if (error !== 0) return undefined;
  if (request.type === NBD_CMD.READ) {
    const sum = covered.reduce((bytes, [from, to]) => bytes + to - from, 0n);
    if (sum !== request.length) return `${sum} bytes of data`;
    if ((request.flags & NBD_CMD_FLAG_DF) !== 0 && chunks > 1) return `${chunks} chunks in spite of DF`;
  }
  if (request.type === NBD_CMD.BLOCK_STATUS && contexts.size !== terms.contexts.size)
    return 'a context is missing';
  return undefined;
}
