// The frame codec: what is encoded is decoded to the same, however the bytes arrive, and the frames of the RFC are what
// they are, byte for byte.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME_HEADER_BYTES, REP_CMD } from '../../../src/repwire/constants.ts';
import { decodeMessage } from '../../../src/repwire/decode.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FrameParser } from '../../../src/repwire/frame-parser.ts';
import { PARAM_LAYOUTS, protectedWrite } from '../../../src/repwire/layouts.ts';
import type { ProtectedWrite, RepMessage } from '../../../src/repwire/messages.ts';
import { anySample, samplesByKind } from './arbitrary-messages.ts';

/** Buffers are equal by content, whatever slab they lie in. */
function plain(message: RepMessage): unknown {
  const copy: Record<string, unknown> = { ...message };
  for (const [key, value] of Object.entries(copy)) {
    if (Buffer.isBuffer(value)) copy[key] = value.toString('hex');
  }
  return copy;
}

/** Feeds a parser in pieces as a connection does: what it did not use is given again, with more behind it. */
function parse(pieces: readonly Buffer[]): unknown[] {
  const messages: unknown[] = [];
  const parser = new FrameParser((message) => {
    messages.push(plain(message));
    return true;
  });
  let rest = Buffer.alloc(0);
  for (const piece of pieces) {
    rest = Buffer.concat([rest, piece]);
    rest = rest.subarray(parser.consume(rest));
    expect(rest.length).toBeLessThan(parser.wantBytes);
  }
  expect(rest).toHaveLength(0);
  return messages;
}

describe('every message', () => {
  for (const [kind, samples] of Object.entries(samplesByKind)) {
    it(`survives the wire: ${kind}`, () => {
      fc.assert(
        fc.property(samples, ({ message, frame }) => {
          expect(parse([frame])).toEqual([plain(message)]);
        }),
        { numRuns: 150 },
      );
    });
  }

  it('is the same whether it arrives whole, byte by byte, or in any pieces', () => {
    fc.assert(
      fc.property(
        fc.array(anySample, { minLength: 1, maxLength: 5 }),
        fc.array(fc.nat(10_000), { maxLength: 12 }),
        (samples, cuts) => {
          const stream = Buffer.concat(samples.map(({ frame }) => frame));
          const expected = samples.map(({ message }) => plain(message));
          expect(parse([stream])).toEqual(expected);
          const bounds = [...new Set([0, ...cuts.map((cut) => cut % stream.length), stream.length])].sort(
            (a, b) => a - b,
          );
          expect(parse(bounds.slice(1).map((end, i) => stream.subarray(bounds[i]!, end)))).toEqual(expected);
          if (stream.length < 3000) {
            expect(parse(Array.from(stream, (_, i) => stream.subarray(i, i + 1)))).toEqual(expected);
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('FrameParser', () => {
  const ping = (token: bigint) => encode.encodePing('ping', token, 0);

  it('stops after the message at which its handler says so, and goes on from there', () => {
    const seen: bigint[] = [];
    const parser = new FrameParser((message) => {
      if (message.kind === 'ping') seen.push(message.token);
      return seen.length % 2 === 1;
    });
    const stream = Buffer.concat([ping(1n), ping(2n), ping(3n)]);
    const used = parser.consume(stream);
    expect([used, seen]).toEqual([2 * FRAME_HEADER_BYTES, [1n, 2n]]);
    expect(parser.consume(stream.subarray(used))).toBe(FRAME_HEADER_BYTES);
    expect(seen).toEqual([1n, 2n, 3n]);
  });

  it('says how much it needs as soon as it knows', () => {
    const parser = new FrameParser(() => true);
    const head = encode.encodeRemoteIoResponse(1, 1n, 0, 4096, { sequence: 0, allZero: false });
    expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES);
    expect(parser.consume(head.subarray(0, 55))).toBe(0);
    expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES);
    expect(parser.consume(head)).toBe(0);
    expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES + 4096);
    expect(parser.consume(Buffer.concat([head, Buffer.alloc(4096), ping(1n)]))).toBe(
      2 * FRAME_HEADER_BYTES + 4096,
    );
    expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES);
  });

  it('handles what came before a bad frame', () => {
    const seen: string[] = [];
    const parser = new FrameParser((message) => {
      seen.push(message.kind);
      return true;
    });
    expect(() => parser.consume(Buffer.concat([ping(1n), Buffer.alloc(56)]))).toThrow('magic');
    expect(seen).toEqual(['ping']);
  });

  it('lends payloads from where they landed, uncopied', () => {
    const data = Buffer.alloc(1024, 7);
    const head = encode.encodeProtectedWrite(1n, 0, 1024, 0, encode.NO_STAMP, data);
    const landed = Buffer.concat([head, data]);
    let payload: Buffer | undefined;
    new FrameParser((message) => {
      if (message.kind === 'protectedWrite') payload = message.data;
      return true;
    }).consume(landed);
    landed.fill(9, FRAME_HEADER_BYTES);
    expect(payload!.every((byte) => byte === 9)).toBe(true);
  });
});

describe('PROTECTED_WRITE, coded by hand', () => {
  it('is what its layout says, both ways', () => {
    fc.assert(
      fc.property(samplesByKind.protectedWrite, ({ message, frame }) => {
        const write = message as ProtectedWrite;
        const fields = {
          volume_id: write.volumeId,
          offset_sectors: write.offset / 512,
          size_sectors: write.length / 512,
          ret_status: write.status,
          sequence: write.sequence,
          time_us: write.timeUs,
          crc32: write.crc32,
        };
        expect(protectedWrite.decode(frame, 8)).toEqual(fields);
        const byLayout = Buffer.from(frame);
        protectedWrite.encodeInto(fields, byLayout, 8);
        expect(byLayout).toEqual(frame);
        const decoded = decodeMessage(
          REP_CMD.PROTECTED_WRITE,
          byLayout,
          0,
          byLayout.subarray(FRAME_HEADER_BYTES),
        );
        expect(plain(decoded)).toEqual(plain(write));
      }),
      { numRuns: 300 },
    );
  });

  it('refuses bytes that are not whole sectors', () => {
    expect(() => encode.encodeProtectedWrite(1n, 100, 512, 0, encode.NO_STAMP, Buffer.alloc(512))).toThrow(
      'whole sectors',
    );
    expect(() => encode.encodeProtectedWrite(1n, 0, 100, 0, encode.NO_STAMP, Buffer.alloc(100))).toThrow(
      'whole sectors',
    );
  });
});

/** A frame of the RFC, written down by hand: command, length, then the parameters in hex. */
function rfcFrame(id: number, payload: Buffer, params: string): Buffer {
  const hex = params.replaceAll(/\s/g, '');
  const length = Buffer.alloc(4);
  length.writeUInt32LE(payload.length);
  return Buffer.concat([
    Buffer.from([0x22, 0x11, id, 0]),
    length,
    Buffer.from(hex.padEnd(88, '0'), 'hex'),
    Buffer.from([0x44, 0x33, 0, 0]),
    payload,
  ]);
}

describe('the frames of the RFC, byte for byte', () => {
  const data = Buffer.alloc(1024, 0x5a);

  it('PROTECTED_WRITE', () => {
    const head = encode.encodeProtectedWrite(
      0x1122334455667788n,
      0x10203 * 512,
      1024,
      0,
      encode.NO_STAMP,
      data,
    );
    expect(Buffer.concat([head, data])).toEqual(
      rfcFrame(2, data, '8877665544332211 0302010000000000 02000000 00000000'),
    );
    expect(encode.encodeProtectedWrite(1n, 2 ** 41, 1024, -1, encode.NO_STAMP, data)).toEqual(
      rfcFrame(2, Buffer.alloc(0), '0100000000000000 0000000001000000 02000000 ffffffff'),
    );
  });

  it('REPORT_VM_VOLUMES', () => {
    const record = Buffer.alloc(272);
    record.write('vda');
    record[256] = 7;
    record.writeBigUInt64LE(2n ** 40n, 264);
    expect(encode.encodeReport([{ name: 'vda', volumeId: 7n, sizeBytes: 2 ** 40 }], false)).toEqual(
      rfcFrame(3, record, '01000000'),
    );
  });

  it('REPORT_VM_VOLUMES with the offer of HELLO, which an RFC hub passes over', () => {
    expect(encode.encodeReport([], true)).toEqual(rfcFrame(3, Buffer.alloc(0), '00000000 48454c4f'));
  });

  it('START_PROTECT', () => {
    expect(encode.encodeStartProtect(7n, 'vda', null)).toEqual(
      rfcFrame(4, Buffer.from('vda'), '0700000000000000 03000000'),
    );
  });

  it('REMOTE_IO_REQ', () => {
    expect(encode.encodeRemoteIoRequest(258, 7n, 4096, 65_536, true)).toEqual(
      rfcFrame(5, Buffer.alloc(0), '02010000 80000000 0700000000000000 0800000000000000 01000000'),
    );
    expect(Buffer.concat([encode.encodeRemoteIoRequest(1, 7n, 0, 1024, false), data])).toEqual(
      rfcFrame(5, data, '01000000 02000000 0700000000000000 0000000000000000 00000000'),
    );
  });

  it('REMOTE_IO_RES', () => {
    const none = { sequence: 0, allZero: false };
    expect(Buffer.concat([encode.encodeRemoteIoResponse(258, 7n, 0, 1024, none), data])).toEqual(
      rfcFrame(6, data, '02010000 00000000 0700000000000000'),
    );
    expect(encode.encodeRemoteIoResponse(258, 7n, -1, 0, none)).toEqual(
      rfcFrame(6, Buffer.alloc(0), '02010000 ffffffff 0700000000000000'),
    );
  });

  it('AGENT_SHUTDOWN', () => {
    expect(encode.encodeAgentShutdown(0)).toEqual(rfcFrame(7, Buffer.alloc(0), ''));
  });
});

describe('layouts', () => {
  it('each fill the parameters exactly, without a gap', () => {
    for (const layout of Object.values(PARAM_LAYOUTS)) {
      let at = 0;
      for (const field of layout.fields) {
        expect(field.offset, `${layout.name}.${field.name}`).toBe(at);
        at += field.sizeBytes;
      }
      expect(at, layout.name).toBe(44);
    }
  });
});
