// The referee's reading of the transmission phase: which errors each request deserves, and whether what came back is
// one whole answer to each, with the right data. Simple, structured and extended replies. It knows only the specification
// and docs/LIMITS.md.
import {
  NBD_CMD,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_ERROR,
  NBD_FLAG_SEND_FAST_ZERO,
} from '../../src/nbdwire/constants.ts';
import type { RefereeExport } from './nbd-referee.ts';
import { readReply, type SeenReply } from './nbd-referee-replies.ts';

/** What was agreed on in the handshake. */
export interface Terms {
  readonly target: RefereeExport;
  readonly flags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: ReadonlySet<number>;
  readonly ordered: boolean;
}

export interface AskedRequest {
  readonly type: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
  /** Of a WRITE. */
  readonly data: Buffer;
  /** The error values that may answer it, OK among them where it may work. */
  readonly allowed: ReadonlySet<number>;
  readonly text: string;
}

const REQUEST_MAGIC = 0x25609513;
const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
const MAX_PAYLOAD_BYTES = 64n * 1024n * 1024n;
const MAX_SKIPPED_PAYLOAD_BYTES = 256n * 1024n * 1024n;
const { OK, EPERM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP } = NBD_ERROR;

/** Reads all requests that are there whole. @returns why the connection has to end after them, or undefined */
export function readRequests(client: Buffer, terms: Terms, into: AskedRequest[]): string | undefined {
  const headBytes = terms.extended ? 32 : 28;
  for (let at = 0; ; ) {
    const head = client.subarray(at, at + headBytes);
    if (head.length < headBytes) return undefined;
    const magic = terms.extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC;
    if (head.readUInt32BE(0) !== magic) return 'request magic';
    const flags = head.readUInt16BE(4);
    const type = head.readUInt16BE(6);
    const length = terms.extended ? head.readBigUInt64BE(24) : BigInt(head.readUInt32BE(24));
    const offset = head.readBigUInt64BE(16);
    const cookie = head.readBigUInt64BE(8);
    at += headBytes;
    if (type === NBD_CMD.DISC) return 'DISC';
    const request = { type, flags, cookie, offset, length };
    const allowed = deservedErrors(request, terms);
    const payload = payloadLength(request, terms);
    // Extended headers ask for no patience with a payload that is larger than allowed; without them it is read away.
    const most = terms.extended ? MAX_PAYLOAD_BYTES : MAX_SKIPPED_PAYLOAD_BYTES;
    if (payload > most) return 'payload too long';
    const data = client.subarray(at, at + Number(payload));
    if (data.length < payload) return undefined;
    at += data.length;
    into.push({ ...request, data, allowed, text: textOf(request, into.length) });
  }
}

interface Header {
  readonly type: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
}

function textOf({ type, flags, cookie, offset, length }: Header, index: number): string {
  return `request ${index} (type ${type}, flags ${flags}, cookie ${cookie}, ${offset}+${length})`;
}

function payloadLength({ type, flags, length }: Header, terms: Terms): bigint {
  const isSent = terms.extended ? (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0 : type === NBD_CMD.WRITE;
  return isSent ? length : 0n;
}

function flagsOf(type: number, terms: Terms): number | undefined {
  const payload = terms.extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
  switch (type) {
    case NBD_CMD.READ:
      return NBD_CMD_FLAG_FUA | (terms.structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD.WRITE:
      return NBD_CMD_FLAG_FUA | payload;
    case NBD_CMD.FLUSH:
    case NBD_CMD.TRIM:
    case NBD_CMD.CACHE:
      return NBD_CMD_FLAG_FUA;
    case NBD_CMD.WRITE_ZEROES: {
      const fast = (terms.flags & NBD_FLAG_SEND_FAST_ZERO) !== 0 ? NBD_CMD_FLAG_FAST_ZERO : 0;
      return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | fast;
    }
    case NBD_CMD.BLOCK_STATUS:
      return terms.contexts.size > 0 ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE : undefined;
    default:
      return undefined;
  }
}

/** Every error that the request has earned; OK when it has earned none. With several, the server may choose. */
function deservedErrors(request: Header, terms: Terms): ReadonlySet<number> {
  const { type, flags, offset, length } = request;
  const { sizeBytes, readOnly, minBlockBytes } = terms.target;
  const known = flagsOf(type, terms);
  if (known === undefined) return new Set([EINVAL]);
  const errors = new Set<number>();
  if ((flags & ~known) !== 0) errors.add(EINVAL);
  if (type === NBD_CMD.FLUSH) {
    if (offset !== 0n || length !== 0n) errors.add(EINVAL);
    return errors.size > 0 ? errors : new Set([OK]);
  }
  const changes = type === NBD_CMD.WRITE || type === NBD_CMD.TRIM || type === NBD_CMD.WRITE_ZEROES;
  if (changes && readOnly) errors.add(EPERM);
  if ((type === NBD_CMD.READ || type === NBD_CMD.WRITE) && length > MAX_PAYLOAD_BYTES) {
    errors.add(type === NBD_CMD.READ && terms.structured ? EOVERFLOW : EINVAL);
  }
  if (terms.extended && type === NBD_CMD.WRITE && (flags & NBD_CMD_FLAG_PAYLOAD_LEN) === 0)
    errors.add(EINVAL);
  if (type === NBD_CMD.BLOCK_STATUS && length === 0n) errors.add(EINVAL);
  if (offset + length > BigInt(sizeBytes)) {
    errors.add(type === NBD_CMD.WRITE || type === NBD_CMD.WRITE_ZEROES ? ENOSPC : EINVAL);
  }
  const unit = BigInt(minBlockBytes);
  if (offset % unit !== 0n || length % unit !== 0n) errors.add(EINVAL);
  if (errors.size > 0) return errors;
  return (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 ? new Set([OK, ENOTSUP]) : new Set([OK]);
}

/** Finds out whether `server` holds one right answer to each request, and nothing else. */
export function judgeReplies(server: Buffer, asked: readonly AskedRequest[], terms: Terms): string[] {
  const due = new Map<bigint, AskedRequest[]>();
  for (const request of asked) due.set(request.cookie, [...(due.get(request.cookie) ?? []), request]);
  const queue = [...asked];
  const partial = new Map<bigint, SeenReply>();
  const faults: string[] = [];
  for (let at = 0; at < server.length && faults.length === 0; ) {
    const result = readReply(server, at, terms, due, partial);
    if (typeof result === 'string') {
      faults.push(result);
      break;
    }
    at = result.next;
    const { reply } = result;
    if (!reply.done) continue;
    partial.delete(reply.request.cookie);
    const waiting = due.get(reply.request.cookie)!;
    waiting.splice(waiting.indexOf(reply.request), 1);
    if (terms.ordered && queue.shift() !== reply.request) faults.push(`${reply.request.text}: out of order`);
    const fault = judgeReply(reply, terms);
    if (fault !== undefined) faults.push(`${reply.request.text}: ${fault}`);
  }
  const unanswered = [...due.values()].flat();
  if (faults.length === 0 && unanswered.length > 0) faults.push(`${unanswered[0]!.text}: never answered`);
  return faults;
}

function judgeReply({ request, error, data }: SeenReply, terms: Terms): string | undefined {
  if (!request.allowed.has(error)) return `error ${error}, not ${[...request.allowed]}`;
  if (error !== OK) return undefined;
  const { content } = terms.target;
  const [offset, length] = [Number(request.offset), Number(request.length)];
  if (request.type === NBD_CMD.WRITE) content.write(offset, request.data);
  if (request.type === NBD_CMD.TRIM || request.type === NBD_CMD.WRITE_ZEROES) content.zero(offset, length);
  if (request.type !== NBD_CMD.READ) return undefined;
  const bytes = data ?? Buffer.alloc(0);
  if (bytes.length !== length) return `${bytes.length} bytes of data`;
  return !terms.ordered || content.slice(offset, length).equals(bytes) ? undefined : 'other data';
}
