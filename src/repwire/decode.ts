// Frames to messages. Everything a peer sent is checked here before anyone acts on it; a WireError ends the connection,
// since there is no way to find the next frame inside a TCP stream that went wrong.
import { crc32 } from 'node:zlib';
import { MAX_DISK_BYTES, MAX_NAME_BYTES, MAX_VOLUMES_PER_AGENT, SECTOR_BYTES } from '../base/limits.ts';
import { resyncReasonOf } from '../base/resync-reason.ts';
import { WireError } from '../wire/struct.ts';
import {
  ACK_STATES,
  CLAIM_FINDINGS,
  CLAIM_FLAG_BELIEVED,
  DIGEST_BYTES,
  DIRTY_FLAG_COUNTED,
  DIRTY_FLAG_MORE,
  EXTENT_RECORD_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_PARAMS_OFFSET,
  HASH_STATUS,
  HELLO_OFFER,
  hasFlag,
  MAX_EXTENTS_PER_FRAME,
  MAX_PACKED_CONTENT_BYTES,
  PACK_CODECS,
  type PackCodec,
  REP_CMD,
  RES_FLAG_ALL_ZERO,
  START_FLAG_PAIRED,
  START_FLAG_RECALL,
  START_FLAG_RESUME,
  VOLUME_RECORD_BYTES,
  ZERO_KIND,
} from './constants.ts';
import * as layouts from './layouts.ts';
import type { DiskRange, Packed, ProtectedWrite, RepMessage, ReportedVolume } from './messages.ts';

const AT = FRAME_PARAMS_OFFSET;
const PACK_CODEC_BY_ID = new Map(
  Object.entries(PACK_CODECS).map(([name, { id }]) => [id as number, name as PackCodec]),
);
const NAME_FIELD_BYTES = MAX_NAME_BYTES + 1;
// A byte order mark is part of a name: two names must never become one.
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Decodes one whole frame.
 * @param id its command
 * @param head buffer whose bytes from `at` on are the frame's fixed part
 * @param payload the frame's payload, lent
 * @throws WireError when the parts contradict each other or a limit
 */
export function decodeMessage(id: number, head: Buffer, at: number, payload: Buffer): RepMessage {
  switch (id) {
    case REP_CMD.PROTECTED_WRITE:
      return decodeProtectedWrite(head, at, payload);
    case REP_CMD.REPORT_VM_VOLUMES:
      return decodeReport(head, at, payload);
    case REP_CMD.START_PROTECT: {
      const p = layouts.startProtect.decode(head, at + AT);
      expectLength('START_PROTECT name', payload, p.name_length);
      // A C peer may count the NUL at the end of its string.
      const name = utf8(untilTrailingNuls(payload), 'START_PROTECT name');
      const resumeSequence = hasFlag(p.flags, START_FLAG_RESUME) ? p.resume_sequence : null;
      const pairing = hasFlag(p.flags, START_FLAG_PAIRED)
        ? { pairing: p.pairing, generation: p.generation, recalls: hasFlag(p.flags, START_FLAG_RECALL) }
        : null;
      if (pairing?.pairing === 0n) throw new WireError('START_PROTECT of pairing 0');
      return { kind: 'startProtect', volumeId: p.volume_id, name, resumeSequence, pairing };
    }
    case REP_CMD.REMOTE_IO_REQ: {
      const p = layouts.remoteIoReq.decode(head, at + AT);
      const isRead = p.is_read !== 0;
      if (isRead) expectLength('REMOTE_IO_REQ read', payload, 0);
      return {
        kind: 'remoteIoRequest',
        requestId: p.req_id,
        volumeId: p.volume_id,
        offsetSectors: p.offset_sectors,
        sizeSectors: p.size_sectors,
        isRead,
        data: payload,
      };
    }
    case REP_CMD.REMOTE_IO_RES: {
      const p = layouts.remoteIoRes.decode(head, at + AT);
      const allZero = hasFlag(p.flags, RES_FLAG_ALL_ZERO);
      if (p.io_status !== 0 || allZero) expectLength('REMOTE_IO_RES without data', payload, 0);
      return {
        kind: 'remoteIoResponse',
        requestId: p.req_id,
        volumeId: p.volume_id,
        status: p.io_status,
        sequence: p.sequence,
        allZero,
        answeredBytes: p.answered_sectors * SECTOR_BYTES,
        data: payload,
      };
    }
    case REP_CMD.AGENT_SHUTDOWN:
      return { kind: 'agentShutdown', sequence: layouts.agentShutdown.decode(head, at + AT).sequence };
    default:
      return decodeExtension(id, head, at, payload);
  }
}

function decodeExtension(id: number, head: Buffer, at: number, payload: Buffer): RepMessage {
  switch (id) {
    case REP_CMD.HELLO: {
      const p = layouts.hello.decode(head, at + AT);
      return {
        kind: 'hello',
        version: p.version,
        features: p.features,
        id: Buffer.from(p.id),
        epoch: p.epoch,
        pingIntervalMs: p.ping_interval_ms,
        name: text(payload, p.name_length, 'HELLO name'),
      };
    }
    case REP_CMD.ACK: {
      const p = layouts.ack.decode(head, at + AT);
      const state = ACK_STATES[p.state];
      if (state === undefined)
        throw new WireError(`ACK state ${p.state}; 0..${ACK_STATES.length - 1} are allowed`);
      return {
        kind: 'ack',
        volumeId: p.volume_id,
        sequence: p.sequence,
        state,
        syncDoneBytes: p.sync_done_bytes,
        syncTotalBytes: p.sync_total_bytes,
        reason: resyncReasonOf(p.reason),
      };
    }
    case REP_CMD.PROTECTED_ZERO: {
      const p = layouts.protectedZero.decode(head, at + AT);
      if (p.kind !== ZERO_KIND.WRITE_ZEROES && p.kind !== ZERO_KIND.TRIM) {
        throw new WireError(`PROTECTED_ZERO kind ${p.kind}; 0 (write zeroes) and 1 (trim) are allowed`);
      }
      const range = diskRange('PROTECTED_ZERO', p.offset_sectors, p.size_sectors);
      return {
        kind: 'protectedZero',
        volumeId: p.volume_id,
        ...range,
        sequence: p.sequence,
        timeUs: p.time_us,
        trim: p.kind === ZERO_KIND.TRIM,
      };
    }
    case REP_CMD.PROTECTED_FLUSH: {
      const p = layouts.protectedFlush.decode(head, at + AT);
      return { kind: 'protectedFlush', volumeId: p.volume_id, sequence: p.sequence, timeUs: p.time_us };
    }
    case REP_CMD.DIRTY: {
      const p = layouts.dirty.decode(head, at + AT);
      return {
        kind: 'dirty',
        volumeId: p.volume_id,
        sequence: p.sequence,
        timeUs: p.time_us,
        extents: decodeExtents('DIRTY', payload, p.num_extents),
        more: hasFlag(p.flags, DIRTY_FLAG_MORE),
        reason: resyncReasonOf(p.reason),
        changedBytes: hasFlag(p.flags, DIRTY_FLAG_COUNTED) ? p.changed_bytes : null,
      };
    }
    case REP_CMD.HASH_REQ: {
      const p = layouts.hashReq.decode(head, at + AT);
      return {
        kind: 'hashRequest',
        requestId: p.req_id,
        volumeId: p.volume_id,
        offsetSectors: p.offset_sectors,
        sizeSectors: p.size_sectors,
      };
    }
    case REP_CMD.HASH_RES: {
      const p = layouts.hashRes.decode(head, at + AT);
      expectLength('HASH_RES digest', payload, p.status === HASH_STATUS.OK ? DIGEST_BYTES : 0);
      return {
        kind: 'hashResponse',
        requestId: p.req_id,
        volumeId: p.volume_id,
        status: p.status,
        sequence: p.sequence,
        digest: payload,
      };
    }
    case REP_CMD.PING:
    case REP_CMD.PONG: {
      const p = layouts.ping.decode(head, at + AT);
      return { kind: id === REP_CMD.PING ? 'ping' : 'pong', token: p.token, timeUs: p.time_us };
    }
    case REP_CMD.VERIFY_REQ: {
      const p = layouts.verifyReq.decode(head, at + AT);
      return { kind: 'verifyRequest', requestId: p.req_id, volumeId: p.volume_id };
    }
    case REP_CMD.VERIFY_RES: {
      const p = layouts.verifyRes.decode(head, at + AT);
      return {
        kind: 'verifyResponse',
        requestId: p.req_id,
        volumeId: p.volume_id,
        status: p.status,
        comparedBytes: p.compared_bytes,
        totalBytes: p.total_bytes,
        differing: decodeExtents('VERIFY_RES', payload, p.num_extents),
      };
    }
    case REP_CMD.VOLUME_ERROR: {
      const p = layouts.volumeError.decode(head, at + AT);
      return {
        kind: 'volumeError',
        volumeId: p.volume_id,
        text: text(payload, p.text_length, 'VOLUME_ERROR text'),
      };
    }
    case REP_CMD.CLAIM: {
      const p = layouts.claim.decode(head, at + AT);
      const finding = CLAIM_FINDINGS[p.finding];
      if (finding === undefined) {
        throw new WireError(`CLAIM finding ${p.finding}; 0..${CLAIM_FINDINGS.length - 1} are allowed`);
      }
      return {
        kind: 'claim',
        volumeId: p.volume_id,
        pairing: p.pairing,
        generation: p.generation,
        recordedSequence: p.recorded_sequence,
        isBelieved: hasFlag(p.flags, CLAIM_FLAG_BELIEVED),
        finding,
      };
    }
    case REP_CMD.RECORDED: {
      const p = layouts.recorded.decode(head, at + AT);
      return {
        kind: 'recorded',
        volumeId: p.volume_id,
        pairing: p.pairing,
        generation: p.generation,
        sequence: p.sequence,
      };
    }
    case REP_CMD.PACKED:
      return decodePacked(layouts.packed.decode(head, at + AT), payload);
    default:
      return { kind: 'unknown', commandId: id };
  }
}

function decodePacked(
  p: { readonly codec: number; readonly content_bytes: number },
  payload: Buffer,
): Packed {
  const codec = PACK_CODEC_BY_ID.get(p.codec);
  if (codec === undefined) {
    throw new WireError(`PACKED with codec ${p.codec}; allowed: ${[...PACK_CODEC_BY_ID.keys()].join(', ')}`);
  }
  const contentBytes = p.content_bytes;
  if (contentBytes < FRAME_HEADER_BYTES || contentBytes > MAX_PACKED_CONTENT_BYTES) {
    throw new WireError(
      `PACKED of ${contentBytes} bytes; ${FRAME_HEADER_BYTES}..${MAX_PACKED_CONTENT_BYTES} are allowed`,
    );
  }
  if (payload.length >= contentBytes) {
    throw new WireError(`PACKED of ${contentBytes} bytes takes ${payload.length}: it must be less`);
  }
  return { kind: 'packed', codec, contentBytes, data: payload };
}

/** The hot one, by hand: one per guest write. Held against the layout by a test. */
function decodeProtectedWrite(head: Buffer, at: number, payload: Buffer): ProtectedWrite {
  const volumeId = idAt(head, at + 8);
  const offsetSectors = exact64(head, at + 16, 'PROTECTED_WRITE.offset_sectors');
  const sizeSectors = head.readUInt32LE(at + 24);
  const status = head.readInt32LE(at + 28);
  const sequence = exact64(head, at + 32, 'PROTECTED_WRITE.sequence');
  const timeUs = exact64(head, at + 40, 'PROTECTED_WRITE.time_us');
  const checksum = head.readUInt32LE(at + 48);
  const length = sizeSectors * SECTOR_BYTES;
  checkRange('PROTECTED_WRITE', offsetSectors, length);
  expectLength('PROTECTED_WRITE', payload, status === 0 ? length : 0);
  // Without HELLO there is no sequence and no checksum.
  if (sequence !== 0 && status === 0 && crc32(payload) !== checksum) {
    throw new WireError(`PROTECTED_WRITE ${sequence}: payload does not match its crc32`);
  }
  const offset = offsetSectors * SECTOR_BYTES;
  return {
    kind: 'protectedWrite',
    volumeId,
    offset,
    length,
    status,
    sequence,
    timeUs,
    crc32: checksum,
    data: payload,
  };
}

function decodeReport(head: Buffer, at: number, payload: Buffer): RepMessage {
  const p = layouts.reportVmVolumes.decode(head, at + AT);
  if (p.num_volumes < 0 || p.num_volumes > MAX_VOLUMES_PER_AGENT) {
    throw new WireError(
      `REPORT_VM_VOLUMES of ${p.num_volumes} volumes; 0..${MAX_VOLUMES_PER_AGENT} are allowed`,
    );
  }
  expectLength('REPORT_VM_VOLUMES', payload, p.num_volumes * VOLUME_RECORD_BYTES);
  const volumes: ReportedVolume[] = [];
  for (let i = 0; i < p.num_volumes; i += 1) {
    const from = i * VOLUME_RECORD_BYTES;
    const field = payload.subarray(from, from + NAME_FIELD_BYTES);
    const nul = field.indexOf(0);
    if (nul === -1) throw new WireError(`REPORT_VM_VOLUMES: the name of volume ${i} has no NUL`);
    const sizeBytes = exact64(payload, from + NAME_FIELD_BYTES + 8, 'REPORT_VM_VOLUMES.size_bytes');
    if (sizeBytes > MAX_DISK_BYTES) {
      throw new WireError(`REPORT_VM_VOLUMES: volume ${i} has ${sizeBytes} bytes; at most ${MAX_DISK_BYTES}`);
    }
    volumes.push({
      name: utf8(field.subarray(0, nul), `name of volume ${i}`),
      volumeId: payload.readBigUInt64LE(from + NAME_FIELD_BYTES),
      sizeBytes,
    });
  }
  return { kind: 'reportVmVolumes', offersHello: p.hello_offer === HELLO_OFFER, volumes };
}

function decodeExtents(what: string, payload: Buffer, count: number): DiskRange[] {
  if (count > MAX_EXTENTS_PER_FRAME) {
    throw new WireError(`${what} of ${count} extents; at most ${MAX_EXTENTS_PER_FRAME} are allowed`);
  }
  expectLength(what, payload, count * EXTENT_RECORD_BYTES);
  const extents: DiskRange[] = [];
  for (let i = 0; i < count; i += 1) {
    const from = i * EXTENT_RECORD_BYTES;
    const offsetSectors = exact64(payload, from, `${what} extent offset`);
    extents.push(diskRange(what, offsetSectors, exact64(payload, from + 8, `${what} extent length`)));
  }
  return extents;
}

/** The id read last, and its halves: putting a bigint together allocates several. */
let lastId = 0n;
let lastIdLow = 0;
let lastIdHigh = 0;

function idAt(source: Buffer, at: number): bigint {
  const low = source.readUInt32LE(at);
  const high = source.readUInt32LE(at + 4);
  if (low !== lastIdLow || high !== lastIdHigh) {
    lastId = source.readBigUInt64LE(at);
    lastIdLow = low;
    lastIdHigh = high;
  }
  return lastId;
}

function exact64(source: Buffer, at: number, what: string): number {
  const value = source.readUInt32LE(at + 4) * 2 ** 32 + source.readUInt32LE(at);
  if (!Number.isSafeInteger(value)) throw new WireError(`${what} is above ${Number.MAX_SAFE_INTEGER}`);
  return value;
}

function diskRange(what: string, offsetSectors: number, sizeSectors: number): DiskRange {
  const length = sizeSectors * SECTOR_BYTES;
  checkRange(what, offsetSectors, length);
  return { offset: offsetSectors * SECTOR_BYTES, length };
}

function checkRange(what: string, offsetSectors: number, length: number): void {
  const end = offsetSectors * SECTOR_BYTES + length;
  if (end > MAX_DISK_BYTES)
    throw new WireError(`${what} reaches beyond the largest disk, ${MAX_DISK_BYTES} bytes`);
}

function expectLength(what: string, payload: Buffer, length: number): void {
  if (payload.length !== length)
    throw new WireError(`${what} has ${payload.length} bytes of payload, not ${length}`);
}

function text(payload: Buffer, length: number, what: string): string {
  expectLength(what, payload, length);
  return utf8(payload, what);
}

function utf8(payload: Buffer, what: string): string {
  let value: string;
  try {
    value = strictUtf8.decode(payload);
  } catch {
    throw new WireError(`${what} is not UTF-8`);
  }
  if (value.includes('\0')) throw new WireError(`${what} contains a NUL`);
  return value;
}

function untilTrailingNuls(payload: Buffer): Buffer {
  let end = payload.length;
  while (end > 0 && payload[end - 1] === 0) end -= 1;
  return payload.subarray(0, end);
}
