// The fast encoders and decoders of structured replies, block status and extended headers against the plain layouts.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  encodeBlockStatus,
  MAX_STATUS_RUNS,
  parseStatusFilter,
  StatusRuns,
} from '../../../src/nbdwire/block-status.ts';
import { NBD_EXTENDED_REPLY_MAGIC, NBD_STRUCTURED_REPLY_MAGIC } from '../../../src/nbdwire/constants.ts';
import {
  chunkHeaderBytes,
  encodeErrorChunk,
  encodeReadChunk,
  encodeReadHead,
  readChunkHeadBytes,
  readHeadBytes,
} from '../../../src/nbdwire/reply.ts';
import { decodeExtendedRequest, RequestHeader } from '../../../src/nbdwire/request.ts';
import {
  blockStatusExtStruct,
  blockStatusStruct,
  chunkErrorOffsetStruct,
  chunkErrorStruct,
  extendedReplyStruct,
  extendedRequestStruct,
  extentExtStruct,
  extentStruct,
  offsetDataStruct,
  offsetHoleStruct,
  structuredReplyStruct,
} from '../../../src/nbdwire/structured-layouts.ts';
import {
  errorOf,
  extendedRequestBytes,
  parseReply,
  type ReplyChunk,
  statusOf,
} from '../../support/raw-nbd-client.ts';

type ChunkStyle = 'structured' | 'extended';
const style = fc.constantFrom<ChunkStyle>('structured', 'extended');
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const place = fc.nat(Number.MAX_SAFE_INTEGER);

function request(cookie: bigint, offset: bigint): RequestHeader {
  const header = new RequestHeader();
  const bytes = extendedRequestStruct.encode({
    magic: 0x21e41c71,
    flags: 0,
    type: 0,
    cookie,
    offset,
    length: 0n,
  });
  expect(decodeExtendedRequest(bytes, 0, header)).toBe(true);
  return header;
}

/** The header that a chunk must have, by the plain layouts. */
function head(
  kind: ChunkStyle,
  flags: number,
  type: number,
  cookie: bigint,
  offset: bigint,
  length: number,
): Buffer {
  return kind === 'extended'
    ? extendedReplyStruct.encode({
        magic: NBD_EXTENDED_REPLY_MAGIC,
        flags,
        type,
        cookie,
        offset,
        length: BigInt(length),
      })
    : structuredReplyStruct.encode({ magic: NBD_STRUCTURED_REPLY_MAGIC, flags, type, cookie, length });
}

describe('an extended request', () => {
  it('is decoded as its layout says, at any place', () => {
    const u16 = fc.nat(0xffff);
    fc.assert(
      fc.property(u16, u16, u64, u64, u64, fc.nat(20), (flags, type, cookie, offset, length, at) => {
        const fields = { magic: 0x21e41c71, flags, type, cookie, offset, length };
        const bytes = Buffer.alloc(60, 0xee);
        extendedRequestStruct.encodeInto(fields, bytes, at);
        const header = new RequestHeader();
        expect(decodeExtendedRequest(bytes, at, header)).toBe(true);
        expect(header).toMatchObject({ flags, type, offset: Number(offset), length: Number(length) });
        expect((BigInt(header.cookieHigh) << 32n) + BigInt(header.cookieLow)).toBe(cookie);
        expect((BigInt(header.offsetHigh) << 32n) + BigInt(header.offsetLow)).toBe(offset);
        bytes.writeUInt32BE(0x25609513, at);
        expect(decodeExtendedRequest(bytes, at, header)).toBe(false);
      }),
    );
    expect(extendedRequestBytes({ type: 0 }).length).toBe(32);
  });
});

describe('chunks', () => {
  it('of a READ in one piece are as the layouts say', () => {
    fc.assert(
      fc.property(style, u64, u64, fc.integer({ min: 1, max: 2 ** 26 }), (kind, cookie, offset, length) => {
        const bytes = Buffer.alloc(readHeadBytes(kind));
        encodeReadHead(kind, bytes, 0, request(cookie, offset), length);
        const wanted = [head(kind, 1, 1, cookie, offset, length + 8), offsetDataStruct.encode({ offset })];
        expect(bytes).toEqual(Buffer.concat(wanted));
      }),
    );
    const simple = Buffer.alloc(readHeadBytes('simple'));
    encodeReadHead('simple', simple, 0, request(7n, 0n), 512);
    expect(simple.toString('hex')).toBe('67446698000000000000000000000007');
  });

  it('of data and holes are as the layouts say', () => {
    const size = fc.integer({ min: 1, max: 2 ** 26 });
    fc.assert(
      fc.property(
        style,
        u64,
        u64,
        place,
        size,
        fc.boolean(),
        fc.nat(1),
        (kind, cookie, start, offset, length, hole, flags) => {
          const chunk = { offset, length, hole };
          const bytes = Buffer.alloc(readChunkHeadBytes(kind, chunk) + 5, 0xee);
          const end = encodeReadChunk(kind, bytes, 5, flags, request(cookie, start), chunk);
          const body = hole
            ? offsetHoleStruct.encode({ offset: BigInt(offset), length })
            : offsetDataStruct.encode({ offset: BigInt(offset) });
          const payload = hole ? 12 : 8 + length;
          expect(bytes.subarray(5)).toEqual(
            Buffer.concat([head(kind, flags, hole ? 2 : 1, cookie, start, payload), body]),
          );
          expect(end).toBe(bytes.length);
        },
      ),
    );
  });

  it('of errors are as the layouts say', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 100 });
    fc.assert(
      fc.property(
        style,
        u64,
        u64,
        fc.nat(200),
        text,
        fc.option(place, { nil: undefined }),
        (kind, cookie, start, error, message, offset) => {
          const bytes = encodeErrorChunk(kind, request(cookie, start), error, message, offset);
          const messageLength = Buffer.byteLength(message);
          const body = Buffer.concat([
            chunkErrorStruct.encode({ error, messageLength }),
            Buffer.from(message),
            ...(offset === undefined ? [] : [chunkErrorOffsetStruct.encode({ offset: BigInt(offset) })]),
          ]);
          const type = offset === undefined ? 0x8001 : 0x8002;
          expect(bytes).toEqual(Buffer.concat([head(kind, 1, type, cookie, start, body.length), body]));
          const { chunk } = parseReply(bytes)!;
          expect(errorOf(chunk)).toEqual({
            error,
            message,
            ...(offset === undefined ? {} : { offset: BigInt(offset) }),
          });
        },
      ),
    );
  });

  it('of block status are as the layouts say', () => {
    const flags = fc.nat(0xffffffff);
    const runs = fc.array(fc.record({ length: fc.integer({ min: 1, max: 0xffffffff }), flags }), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(
        style,
        u64,
        u64,
        fc.nat(0xffffffff),
        runs,
        fc.boolean(),
        (kind, cookie, start, contextId, list, last) => {
          const bytes = encodeBlockStatus(kind, request(cookie, start), contextId, list, last);
          const body =
            kind === 'extended'
              ? [
                  blockStatusExtStruct.encode({ contextId, count: list.length }),
                  ...list.map((run) =>
                    extentExtStruct.encode({ length: BigInt(run.length), flags: BigInt(run.flags) }),
                  ),
                ]
              : [blockStatusStruct.encode({ contextId }), ...list.map((run) => extentStruct.encode(run))];
          const length = body.reduce((sum, part) => sum + part.length, 0);
          const type = kind === 'extended' ? 6 : 5;
          expect(bytes).toEqual(
            Buffer.concat([head(kind, last ? 1 : 0, type, cookie, start, length), ...body]),
          );
          expect(statusOf(parseReply(bytes)!.chunk)).toEqual({
            contextId,
            runs: list.map((run) => [run.length, run.flags]),
          });
        },
      ),
    );
  });

  it('of block status tell extents beyond 4 GiB exactly with extended headers', () => {
    const runs = [2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1].map((length) => ({ length, flags: 3 }));
    const bytes = encodeBlockStatus('extended', request(1n, 0n), 0, runs, true);
    expect(statusOf(parseReply(bytes)!.chunk).runs.map(([length]) => length)).toEqual(
      runs.map((run) => run.length),
    );
  });

  it('are parsed alike whole and at any split', () => {
    const bytes = Buffer.concat([
      encodeErrorChunk('structured', request(1n, 5n), 5, 'no', 7),
      encodeBlockStatus('extended', request(2n, 5n), 0, [{ length: 9, flags: 1 }], true),
      encodeErrorChunk('extended', request(3n, 5n), 5, '', undefined),
    ]);
    const parsed: ReplyChunk[] = [];
    let pending = Buffer.alloc(0);
    for (const byte of bytes) {
      pending = Buffer.concat([pending, Buffer.from([byte])]);
      const one = parseReply(pending);
      if (!one) continue;
      expect(one.length).toBe(pending.length);
      parsed.push(one.chunk);
      pending = Buffer.alloc(0);
    }
    expect(parsed.map((chunk) => chunk.cookie)).toEqual([1n, 2n, 3n]);
    expect(chunkHeaderBytes('structured')).toBe(20);
    expect(chunkHeaderBytes('extended')).toBe(32);
  });
});

describe('StatusRuns', () => {
  it('merge equal neighbours, and end with the request or the number wanted', () => {
    const list = new StatusRuns(100, 3);
    expect(list.add(10, 1)).toBe(true);
    expect(list.add(20, 1)).toBe(true);
    expect(list.add(0, 7)).toBe(true);
    expect(list.add(5, 0)).toBe(true);
    expect(list.add(5, 1)).toBe(true);
    expect(list.add(5, 0)).toBe(false);
    expect(list.runs).toEqual([
      { length: 30, flags: 1 },
      { length: 5, flags: 0 },
      { length: 5, flags: 1 },
    ]);
    const short = new StatusRuns(100, 3);
    expect(short.add(1000, 2)).toBe(false);
    expect(short.runs).toEqual([{ length: 100, flags: 2 }]);
  });
});

describe('the payload of a BLOCK_STATUS', () => {
  const payload = (length: bigint, ...ids: number[]): Buffer => {
    const bytes = Buffer.alloc(8 + ids.length * 4);
    bytes.writeBigUInt64BE(length);
    for (const [i, id] of ids.entries()) bytes.writeUInt32BE(id, 8 + i * 4);
    return bytes;
  };

  it('asks for some of the selected contexts, once each', () => {
    expect(parseStatusFilter(payload(2n ** 40n, 2), [0, 2])).toEqual({ length: 2 ** 40, contextIds: [2] });
    expect(parseStatusFilter(payload(1n, 2, 0), [0, 2])).toEqual({ length: 1, contextIds: [2, 0] });
    expect(parseStatusFilter(payload(1n, 1), [0, 2])).toBeUndefined();
    expect(parseStatusFilter(payload(1n, 0, 0), [0, 2])).toBeUndefined();
    expect(parseStatusFilter(payload(1n), [0, 2])).toBeUndefined();
    expect(parseStatusFilter(payload(1n, 0), [])).toBeUndefined();
    for (const bytes of [0, 1, 7, 9, 11, 13])
      expect(parseStatusFilter(Buffer.alloc(bytes), [0, 2])).toBeUndefined();
    expect(MAX_STATUS_RUNS).toBeLessThanOrEqual(2 ** 20);
  });
});
