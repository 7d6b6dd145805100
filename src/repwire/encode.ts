// Messages to frames. An encoder returns the fixed part alone; a payload is sent after it from where it lies, uncopied.
import { crc32 } from 'node:zlib';
import { assert, fail } from '../base/assert.ts';
import { MAX_NAME_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import { type ResyncReason, resyncReasonNumber } from '../base/resync-reason.ts';
import type { FieldSpec, Struct, StructValue } from '../wire/struct.ts';
import {
  ACK_STATES,
  type AckState,
  CLAIM_FINDINGS,
  CLAIM_FLAG_BELIEVED,
  DIRTY_FLAG_COUNTED,
  DIRTY_FLAG_MORE,
  EXTENT_RECORD_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC1,
  FRAME_MAGIC2,
  FRAME_PARAMS_OFFSET,
  HELLO_OFFER,
  MAX_EXTENTS_PER_FRAME,
  MAX_TEXT_BYTES,
  PACK_CODECS,
  type PackCodec,
  PROTOCOL_VERSION,
  REP_CMD,
  RES_FLAG_ALL_ZERO,
  START_FLAG_PAIRED,
  START_FLAG_RECALL,
  START_FLAG_RESUME,
  VOLUME_RECORD_BYTES,
  ZERO_KIND,
} from './constants.ts';
import * as layouts from './layouts.ts';
import type { Claim, Dirty, DiskRange, Recorded, ReportedVolume, StartPairing } from './messages.ts';

const MAGIC2_AT = FRAME_HEADER_BYTES - 4;

function withParams<S extends FieldSpec>(
  id: number,
  payloadBytes: number,
  layout: Struct<S>,
  value: StructValue<S>,
): Buffer {
  const head = Buffer.alloc(FRAME_HEADER_BYTES);
  head.writeUInt16LE(FRAME_MAGIC1, 0);
  head.writeUInt16LE(id, 2);
  head.writeUInt32LE(payloadBytes, 4);
  layout.encodeInto(value, head, FRAME_PARAMS_OFFSET);
  head.writeUInt32LE(FRAME_MAGIC2, MAGIC2_AT);
  return head;
}

/** The stream's stamp on a change: zero without HELLO. */
export interface Stamp {
  readonly sequence: number;
  readonly timeUs: number;
}

export const NO_STAMP: Stamp = { sequence: 0, timeUs: 0 };

/** PROTECTED_WRITE in memory of its own, see {@link putProtectedWrite}. */
export function encodeProtectedWrite(
  volumeId: bigint,
  offset: number,
  length: number,
  status: number,
  stamp: Stamp,
  data: Buffer,
): Buffer {
  const head = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  putProtectedWrite(head, 0, volumeId, offset, length, status, stamp, data);
  return head;
}

/**
 * PROTECTED_WRITE at `at` of `head`, by hand since it is sent once per guest write. The payload follows it.
 * @param status 0, or -1 when the write failed; then `data` is not sent and only its length counts
 */
export function putProtectedWrite(
  head: Buffer,
  at: number,
  volumeId: bigint,
  offset: number,
  length: number,
  status: number,
  stamp: Stamp,
  data: Buffer,
): void {
  if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
    fail(`write ${offset}+${length} is not whole sectors`);
  }
  head.writeUInt16LE(FRAME_MAGIC1, at);
  head.writeUInt16LE(REP_CMD.PROTECTED_WRITE, at + 2);
  head.writeUInt32LE(status === 0 ? length : 0, at + 4);
  if (volumeId !== lastId) splitId(volumeId);
  head.writeUInt32LE(lastIdLow, at + 8);
  head.writeUInt32LE(lastIdHigh, at + 12);
  write64(head, offset / SECTOR_BYTES, at + 16);
  head.writeUInt32LE(length / SECTOR_BYTES, at + 24);
  head.writeInt32LE(status, at + 28);
  write64(head, stamp.sequence, at + 32);
  write64(head, stamp.timeUs, at + 40);
  head.writeUInt32LE(stamp.sequence !== 0 && status === 0 ? crc32(data) : 0, at + 48);
  head.writeUInt32LE(FRAME_MAGIC2, at + MAGIC2_AT);
}

/** The id written last, in halves: taking a bigint apart allocates several. */
let lastId = 0n;
let lastIdLow = 0;
let lastIdHigh = 0;

function splitId(id: bigint): void {
  lastId = id;
  lastIdLow = Number(BigInt.asUintN(32, id));
  lastIdHigh = Number(id >> 32n);
}

/** REPORT_VM_VOLUMES, its payload included. */
export function encodeReport(volumes: readonly ReportedVolume[], offersHello: boolean): Buffer {
  const payload = Buffer.alloc(volumes.length * VOLUME_RECORD_BYTES);
  volumes.forEach((volume, i) => {
    const from = i * VOLUME_RECORD_BYTES;
    const name = Buffer.from(volume.name, 'utf8');
    assert(
      name.length <= MAX_NAME_BYTES && !name.includes(0),
      `volume name ${volume.name} doesn't fit the wire`,
    );
    name.copy(payload, from);
    payload.writeBigUInt64LE(volume.volumeId, from + MAX_NAME_BYTES + 1);
    write64(payload, volume.sizeBytes, from + MAX_NAME_BYTES + 9);
  });
  const head = withParams(REP_CMD.REPORT_VM_VOLUMES, payload.length, layouts.reportVmVolumes, {
    num_volumes: volumes.length,
    hello_offer: offersHello ? HELLO_OFFER : 0,
  });
  return Buffer.concat([head, payload]);
}

/** START_PROTECT, its payload included. @param resumeSequence null: the hub starts from nothing @param pairing null: none is kept */
export function encodeStartProtect(
  volumeId: bigint,
  name: string,
  resumeSequence: number | null,
  pairing: StartPairing | null = null,
): Buffer {
  const payload = Buffer.from(name, 'utf8');
  const resumes = resumeSequence === null ? 0 : START_FLAG_RESUME;
  const pairs = pairing ? START_FLAG_PAIRED + (pairing.recalls ? START_FLAG_RECALL : 0) : 0;
  const head = withParams(REP_CMD.START_PROTECT, payload.length, layouts.startProtect, {
    volume_id: volumeId,
    name_length: payload.length,
    flags: resumes + pairs,
    resume_sequence: resumeSequence ?? 0,
    pairing: pairing?.pairing ?? 0n,
    generation: pairing?.generation ?? 0,
  });
  return Buffer.concat([head, payload]);
}

/** REMOTE_IO_REQ; a write's payload follows it. @param offset and @param length bytes, whole sectors */
export function encodeRemoteIoRequest(
  requestId: number,
  volumeId: bigint,
  offset: number,
  length: number,
  isRead: boolean,
): Buffer {
  return withParams(REP_CMD.REMOTE_IO_REQ, isRead ? 0 : length, layouts.remoteIoReq, {
    req_id: requestId,
    size_sectors: length / SECTOR_BYTES,
    volume_id: volumeId,
    offset_sectors: BigInt(offset / SECTOR_BYTES),
    is_read: isRead ? 1 : 0,
  });
}

/** REMOTE_IO_RES; the data of a successful read follows it unless `allZero`. */
export function encodeRemoteIoResponse(
  requestId: number,
  volumeId: bigint,
  status: number,
  payloadBytes: number,
  extension: {
    readonly sequence: number;
    readonly allZero: boolean;
    /** Of a wide read: bytes from its start that this answers; 0: all. */
    readonly answeredBytes?: number;
  },
): Buffer {
  return withParams(REP_CMD.REMOTE_IO_RES, payloadBytes, layouts.remoteIoRes, {
    req_id: requestId,
    io_status: status,
    volume_id: volumeId,
    sequence: extension.sequence,
    flags: extension.allZero ? RES_FLAG_ALL_ZERO : 0,
    answered_sectors: (extension.answeredBytes ?? 0) / SECTOR_BYTES,
  });
}

export function encodeAgentShutdown(sequence: number): Buffer {
  return withParams(REP_CMD.AGENT_SHUTDOWN, 0, layouts.agentShutdown, { sequence });
}

/** HELLO, its payload included. @param id 16 bytes */
export function encodeHello(
  id: Buffer,
  epoch: bigint,
  pingIntervalMs: number,
  name: string,
  features = 0,
): Buffer {
  const payload = Buffer.from(name, 'utf8');
  const head = withParams(REP_CMD.HELLO, payload.length, layouts.hello, {
    version: PROTOCOL_VERSION,
    features,
    id,
    epoch,
    ping_interval_ms: pingIntervalMs,
    name_length: payload.length,
  });
  return Buffer.concat([head, payload]);
}

export function encodeAck(
  volumeId: bigint,
  sequence: number,
  state: AckState,
  syncDoneBytes: number,
  syncTotalBytes: number,
  reason: ResyncReason = 'unknown',
): Buffer {
  return withParams(REP_CMD.ACK, 0, layouts.ack, {
    volume_id: volumeId,
    sequence,
    state: ACK_STATES.indexOf(state),
    sync_done_bytes: syncDoneBytes,
    sync_total_bytes: syncTotalBytes,
    reason: resyncReasonNumber(reason),
  });
}

export function encodeProtectedZero(
  volumeId: bigint,
  offset: number,
  length: number,
  trim: boolean,
  stamp: Stamp,
): Buffer {
  return withParams(REP_CMD.PROTECTED_ZERO, 0, layouts.protectedZero, {
    volume_id: volumeId,
    offset_sectors: offset / SECTOR_BYTES,
    size_sectors: length / SECTOR_BYTES,
    sequence: stamp.sequence,
    time_us: stamp.timeUs,
    kind: trim ? ZERO_KIND.TRIM : ZERO_KIND.WRITE_ZEROES,
  });
}

export function encodeProtectedFlush(volumeId: bigint, stamp: Stamp): Buffer {
  return withParams(REP_CMD.PROTECTED_FLUSH, 0, layouts.protectedFlush, {
    volume_id: volumeId,
    sequence: stamp.sequence,
    time_us: stamp.timeUs,
  });
}

/** Why a DIRTY list is sent. */
export type DirtyWhy = Pick<Dirty, 'reason' | 'changedBytes'>;

export const NO_DIRTY_WHY: DirtyWhy = { reason: 'unknown', changedBytes: null };

/** DIRTY, its payload included; at most MAX_EXTENTS_PER_FRAME extents. @param more further frames of this sequence follow */
export function encodeDirty(
  volumeId: bigint,
  stamp: Stamp,
  extents: readonly DiskRange[],
  more: boolean,
  { reason, changedBytes }: DirtyWhy = NO_DIRTY_WHY,
): Buffer {
  const payload = encodeExtents(extents);
  const head = withParams(REP_CMD.DIRTY, payload.length, layouts.dirty, {
    volume_id: volumeId,
    sequence: stamp.sequence,
    time_us: stamp.timeUs,
    num_extents: extents.length,
    flags: (more ? DIRTY_FLAG_MORE : 0) | (changedBytes === null ? 0 : DIRTY_FLAG_COUNTED),
    reason: resyncReasonNumber(reason),
    changed_bytes: changedBytes ?? 0,
  });
  return Buffer.concat([head, payload]);
}

export function encodeHashRequest(
  requestId: number,
  volumeId: bigint,
  offset: number,
  length: number,
): Buffer {
  return withParams(REP_CMD.HASH_REQ, 0, layouts.hashReq, {
    req_id: requestId,
    size_sectors: length / SECTOR_BYTES,
    volume_id: volumeId,
    offset_sectors: BigInt(offset / SECTOR_BYTES),
  });
}

/** HASH_RES, its payload included. @param digest 32 bytes when `status` is OK, else empty */
export function encodeHashResponse(
  requestId: number,
  volumeId: bigint,
  status: number,
  sequence: number,
  digest: Buffer,
): Buffer {
  const head = withParams(REP_CMD.HASH_RES, digest.length, layouts.hashRes, {
    req_id: requestId,
    status,
    volume_id: volumeId,
    sequence,
  });
  return Buffer.concat([head, digest]);
}

export function encodePing(kind: 'ping' | 'pong', token: bigint, timeUs: number): Buffer {
  const id = kind === 'ping' ? REP_CMD.PING : REP_CMD.PONG;
  return withParams(id, 0, layouts.ping, { token, time_us: timeUs });
}

export function encodeVerifyRequest(requestId: number, volumeId: bigint): Buffer {
  return withParams(REP_CMD.VERIFY_REQ, 0, layouts.verifyReq, { req_id: requestId, volume_id: volumeId });
}

/** VERIFY_RES, its payload included. */
export function encodeVerifyResponse(
  requestId: number,
  volumeId: bigint,
  status: number,
  comparedBytes: number,
  totalBytes: number,
  differing: readonly DiskRange[],
): Buffer {
  const payload = encodeExtents(differing);
  const head = withParams(REP_CMD.VERIFY_RES, payload.length, layouts.verifyRes, {
    req_id: requestId,
    status,
    volume_id: volumeId,
    compared_bytes: comparedBytes,
    total_bytes: totalBytes,
    num_extents: differing.length,
  });
  return Buffer.concat([head, payload]);
}

/** VOLUME_ERROR, its payload included; a long text is cut. */
export function encodeVolumeError(volumeId: bigint, text: string): Buffer {
  const payload = Buffer.from(cutUtf8(text.replaceAll('\0', ' '), MAX_TEXT_BYTES), 'utf8');
  const head = withParams(REP_CMD.VOLUME_ERROR, payload.length, layouts.volumeError, {
    volume_id: volumeId,
    text_length: payload.length,
  });
  return Buffer.concat([head, payload]);
}

export function encodeClaim(claim: Omit<Claim, 'kind'>): Buffer {
  return withParams(REP_CMD.CLAIM, 0, layouts.claim, {
    volume_id: claim.volumeId,
    pairing: claim.pairing,
    generation: claim.generation,
    recorded_sequence: claim.recordedSequence,
    flags: claim.isBelieved ? CLAIM_FLAG_BELIEVED : 0,
    finding: CLAIM_FINDINGS.indexOf(claim.finding),
  });
}

export function encodeRecorded(recorded: Omit<Recorded, 'kind'>): Buffer {
  return withParams(REP_CMD.RECORDED, 0, layouts.recorded, {
    volume_id: recorded.volumeId,
    pairing: recorded.pairing,
    generation: recorded.generation,
    sequence: recorded.sequence,
  });
}

/** PACKED; the packed bytes follow it. @param contentBytes of the frames before they were packed */
export function encodePacked(codec: PackCodec, contentBytes: number, packedBytes: number): Buffer {
  return withParams(REP_CMD.PACKED, packedBytes, layouts.packed, {
    codec: PACK_CODECS[codec].id,
    content_bytes: contentBytes,
  });
}

function encodeExtents(extents: readonly DiskRange[]): Buffer {
  if (extents.length > MAX_EXTENTS_PER_FRAME) fail(`${extents.length} extents don't fit one frame`);
  const payload = Buffer.alloc(extents.length * EXTENT_RECORD_BYTES);
  extents.forEach((extent, i) => {
    write64(payload, extent.offset / SECTOR_BYTES, i * EXTENT_RECORD_BYTES);
    write64(payload, extent.length / SECTOR_BYTES, i * EXTENT_RECORD_BYTES + 8);
  });
  return payload;
}

function write64(target: Buffer, value: number, at: number): void {
  target.writeUInt32LE(value % 2 ** 32, at);
  target.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function cutUtf8(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  const cut = Buffer.from(text).subarray(0, maxBytes).toString('utf8');
  return cut.replace(/\uFFFD+$/u, '');
}
