// Every message that can be sent, at random, with the frame that the encoder makes of it.
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { MAX_DISK_BYTES, MAX_NAME_BYTES } from '../../../src/base/limits.ts';
import { RESYNC_REASONS, type ResyncReason } from '../../../src/base/resync-reason.ts';
import { ACK_STATES, CLAIM_FINDINGS, HASH_STATUS } from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import type { RepMessage, RepMessageKind } from '../../../src/repwire/messages.ts';

export interface Sample {
  /** What the parser must make of `frame`. */
  readonly message: RepMessage;
  readonly frame: Buffer;
}

const SECTOR = 512;
const EMPTY = Buffer.alloc(0);
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const requestId = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const reason = fc.constantFrom(...(Object.keys(RESYNC_REASONS) as ResyncReason[]));
const size = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const sequence = fc.oneof(fc.nat(1000), size);
const stamp = fc.record({ sequence: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), timeUs: size });
/** Text of at most so many bytes, with characters of one to four of them. */
const textOf = (maxBytes: number) =>
  fc
    .string({ unit: 'binary', maxLength: maxBytes })
    .map((text) => text.replaceAll('\0', ''))
    .filter((text) => Buffer.byteLength(text) <= maxBytes);
const name = textOf(MAX_NAME_BYTES);
const bytes = (sectors: fc.Arbitrary<number>) =>
  sectors
    .chain((count) => fc.uint8Array({ minLength: count * SECTOR, maxLength: count * SECTOR }))
    .map(Buffer.from);
const range = fc
  .record({
    first: fc.oneof(fc.nat(64), fc.integer({ min: 0, max: MAX_DISK_BYTES / SECTOR - 2 ** 32 })),
    count: fc.oneof(fc.nat(64), u32),
  })
  .map(({ first, count }) => ({ offset: first * SECTOR, length: count * SECTOR }));
const ranges = fc.array(range, { maxLength: 20 });

const SAMPLES = {
  protectedWrite: fc
    .record({ volumeId: u64, range, data: bytes(fc.nat(3)), fails: fc.boolean(), stamp, plain: fc.boolean() })
    .map(({ volumeId, range: at, data, fails, stamp: full, plain }): Sample => {
      const used = plain ? encode.NO_STAMP : full;
      const length = fails ? at.length : data.length;
      const status = fails ? -1 : 0;
      const head = encode.encodeProtectedWrite(volumeId, at.offset, length, status, used, data);
      const sum = used.sequence !== 0 && !fails ? crc32(data) : 0;
      return {
        frame: fails ? head : Buffer.concat([head, data]),
        message: {
          kind: 'protectedWrite',
          volumeId,
          offset: at.offset,
          length,
          status,
          ...used,
          crc32: sum,
          data: fails ? EMPTY : data,
        },
      };
    }),
  reportVmVolumes: fc
    .record({
      offersHello: fc.boolean(),
      volumes: fc.array(
        fc.record({ name, volumeId: u64, sizeBytes: fc.integer({ min: 0, max: MAX_DISK_BYTES }) }),
        { maxLength: 5 },
      ),
    })
    .map(
      ({ offersHello, volumes }): Sample => ({
        frame: encode.encodeReport(volumes, offersHello),
        message: { kind: 'reportVmVolumes', offersHello, volumes },
      }),
    ),
  startProtect: fc
    .record({
      volumeId: u64,
      name,
      resumeSequence: fc.option(sequence),
      pairing: fc.option(
        fc.record({
          pairing: u64.map((id) => id || 1n),
          generation: sequence,
          recalls: fc.boolean(),
        }),
      ),
    })
    .map(
      (fields): Sample => ({
        frame: encode.encodeStartProtect(fields.volumeId, fields.name, fields.resumeSequence, fields.pairing),
        message: { kind: 'startProtect', ...fields },
      }),
    ),
  remoteIoRequest: fc
    .record({ requestId, volumeId: u64, range, data: bytes(fc.nat(3)), isRead: fc.boolean() })
    .filter(({ range: at }) => at.length / SECTOR < 2 ** 31)
    .map(({ requestId: id, volumeId, range: at, data, isRead }): Sample => {
      const length = isRead ? at.length : data.length;
      const head = encode.encodeRemoteIoRequest(id, volumeId, at.offset, length, isRead);
      return {
        frame: isRead ? head : Buffer.concat([head, data]),
        message: {
          kind: 'remoteIoRequest',
          requestId: id,
          volumeId,
          offsetSectors: BigInt(at.offset / SECTOR),
          sizeSectors: length / SECTOR,
          isRead,
          data: isRead ? EMPTY : data,
        },
      };
    }),
  remoteIoResponse: fc
    .record({
      requestId,
      volumeId: u64,
      sequence,
      data: bytes(fc.nat(3)),
      how: fc.constantFrom('data', 'zero', 'failed'),
      answeredSectors: fc.nat({ max: 2 ** 21 }),
    })
    .map(({ requestId: id, volumeId, sequence: at, data, how, answeredSectors }): Sample => {
      const answeredBytes = answeredSectors * 512;
      const payload = how === 'data' ? data : EMPTY;
      const allZero = how === 'zero';
      const status = how === 'failed' ? -1 : 0;
      const head = encode.encodeRemoteIoResponse(id, volumeId, status, payload.length, {
        sequence: at,
        allZero,
        answeredBytes,
      });
      return {
        frame: Buffer.concat([head, payload]),
        message: {
          kind: 'remoteIoResponse',
          requestId: id,
          volumeId,
          status,
          sequence: at,
          allZero,
          answeredBytes,
          data: payload,
        },
      };
    }),
  agentShutdown: sequence.map(
    (at): Sample => ({
      frame: encode.encodeAgentShutdown(at),
      message: { kind: 'agentShutdown', sequence: at },
    }),
  ),
  hello: fc
    .record({
      id: fc.uint8Array({ minLength: 16, maxLength: 16 }).map(Buffer.from),
      epoch: u64,
      pingIntervalMs: u32,
      name,
    })
    .map(
      (fields): Sample => ({
        frame: encode.encodeHello(fields.id, fields.epoch, fields.pingIntervalMs, fields.name),
        message: { kind: 'hello', version: 1, features: 0, ...fields },
      }),
    ),
  ack: fc
    .record({
      volumeId: u64,
      sequence,
      state: fc.constantFrom(...ACK_STATES),
      syncDoneBytes: size,
      syncTotalBytes: size,
      reason,
    })
    .map(
      (fields): Sample => ({
        frame: encode.encodeAck(
          fields.volumeId,
          fields.sequence,
          fields.state,
          fields.syncDoneBytes,
          fields.syncTotalBytes,
          fields.reason,
        ),
        message: { kind: 'ack', ...fields },
      }),
    ),
  protectedZero: fc.record({ volumeId: u64, range, trim: fc.boolean(), stamp }).map(
    ({ volumeId, range: at, trim, stamp: s }): Sample => ({
      frame: encode.encodeProtectedZero(volumeId, at.offset, at.length, trim, s),
      message: { kind: 'protectedZero', volumeId, ...at, ...s, trim },
    }),
  ),
  protectedFlush: fc.record({ volumeId: u64, stamp }).map(
    ({ volumeId, stamp: s }): Sample => ({
      frame: encode.encodeProtectedFlush(volumeId, s),
      message: { kind: 'protectedFlush', volumeId, ...s },
    }),
  ),
  dirty: fc
    .record({ volumeId: u64, stamp, extents: ranges, more: fc.boolean(), reason, changed: fc.option(size) })
    .map(({ volumeId, stamp: s, extents, more, reason: why, changed: changedBytes }): Sample => {
      const told = { reason: why, changedBytes };
      return {
        frame: encode.encodeDirty(volumeId, s, extents, more, told),
        message: { kind: 'dirty', volumeId, ...s, extents, more, ...told },
      };
    }),
  hashRequest: fc
    .record({ requestId, volumeId: u64, range })
    .filter(({ range: at }) => at.length / SECTOR < 2 ** 31)
    .map(
      ({ requestId: id, volumeId, range: at }): Sample => ({
        frame: encode.encodeHashRequest(id, volumeId, at.offset, at.length),
        message: {
          kind: 'hashRequest',
          requestId: id,
          volumeId,
          offsetSectors: BigInt(at.offset / SECTOR),
          sizeSectors: at.length / SECTOR,
        },
      }),
    ),
  hashResponse: fc
    .record({
      requestId,
      volumeId: u64,
      status: fc.constantFrom(...Object.values(HASH_STATUS)),
      sequence,
      digest: fc.uint8Array({ minLength: 32, maxLength: 32 }).map(Buffer.from),
    })
    .map((fields): Sample => {
      const digest = fields.status === HASH_STATUS.OK ? fields.digest : EMPTY;
      return {
        frame: encode.encodeHashResponse(
          fields.requestId,
          fields.volumeId,
          fields.status,
          fields.sequence,
          digest,
        ),
        message: { kind: 'hashResponse', ...fields, digest },
      };
    }),
  ping: fc.record({ token: u64, timeUs: size }).map(
    ({ token, timeUs }): Sample => ({
      frame: encode.encodePing('ping', token, timeUs),
      message: { kind: 'ping', token, timeUs },
    }),
  ),
  pong: fc.record({ token: u64, timeUs: size }).map(
    ({ token, timeUs }): Sample => ({
      frame: encode.encodePing('pong', token, timeUs),
      message: { kind: 'pong', token, timeUs },
    }),
  ),
  verifyRequest: fc.record({ requestId, volumeId: u64 }).map(
    (fields): Sample => ({
      frame: encode.encodeVerifyRequest(fields.requestId, fields.volumeId),
      message: { kind: 'verifyRequest', ...fields },
    }),
  ),
  verifyResponse: fc
    .record({
      requestId,
      volumeId: u64,
      status: fc.constantFrom(-1, 0, 1),
      comparedBytes: size,
      totalBytes: size,
      differing: ranges,
    })
    .map(
      (f): Sample => ({
        frame: encode.encodeVerifyResponse(
          f.requestId,
          f.volumeId,
          f.status,
          f.comparedBytes,
          f.totalBytes,
          f.differing,
        ),
        message: { kind: 'verifyResponse', ...f },
      }),
    ),
  claim: fc
    .record({
      volumeId: u64,
      pairing: u64,
      generation: sequence,
      recordedSequence: sequence,
      isBelieved: fc.boolean(),
      finding: fc.constantFrom(...CLAIM_FINDINGS),
    })
    .map((fields): Sample => ({ frame: encode.encodeClaim(fields), message: { kind: 'claim', ...fields } })),
  recorded: fc.record({ volumeId: u64, pairing: u64, generation: sequence, sequence }).map(
    (fields): Sample => ({
      frame: encode.encodeRecorded(fields),
      message: { kind: 'recorded', ...fields },
    }),
  ),
  volumeError: fc.record({ volumeId: u64, text: textOf(300) }).map(
    (fields): Sample => ({
      frame: encode.encodeVolumeError(fields.volumeId, fields.text),
      message: { kind: 'volumeError', ...fields },
    }),
  ),
  packed: fc
    .record({ data: bytes(fc.nat(8)), more: fc.integer({ min: 56, max: 9999 }) })
    .map(({ data, more }): Sample => {
      const contentBytes = data.length + more;
      const frame = Buffer.concat([encode.encodePacked('brotli', contentBytes, data.length), data]);
      return { frame, message: { kind: 'packed', codec: 'brotli', contentBytes, data } };
    }),
  unknown: fc
    .record({ commandId: fc.integer({ min: 80, max: 65_535 }), payload: fc.uint8Array({ maxLength: 100 }) })
    .map(({ commandId, payload }): Sample => {
      const frame = Buffer.concat([encode.encodePing('ping', 0n, 0), payload]);
      frame.writeUInt16LE(commandId, 2);
      frame.writeUInt32LE(payload.length, 4);
      return { frame, message: { kind: 'unknown', commandId } };
    }),
} satisfies Record<RepMessageKind, fc.Arbitrary<Sample>>;

/** Samples of each kind; a kind that is missing here doesn't compile. */
export const samplesByKind: Readonly<Record<RepMessageKind, fc.Arbitrary<Sample>>> = SAMPLES;

export const anySample: fc.Arbitrary<Sample> = fc.oneof(...Object.values(samplesByKind));
