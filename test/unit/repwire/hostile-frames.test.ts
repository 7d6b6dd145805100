// What a peer may send to hurt: every length, number and text that contradicts a limit or the rest of its frame ends the
// parse with a reason, before memory is taken for it; random damage never does worse than that.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_DISK_BYTES } from '../../../src/base/limits.ts';
import {
  FRAME_HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_TEXT_BYTES,
  REP_CMD,
} from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FrameParser } from '../../../src/repwire/frame-parser.ts';
import { COMMAND_NAMES } from '../../../src/repwire/layouts.ts';
import type { RepMessage } from '../../../src/repwire/messages.ts';
import { WireError } from '../../../src/wire/struct.ts';
import { anySample } from './arbitrary-messages.ts';

function parseAll(bytes: Buffer): RepMessage[] {
  const messages: RepMessage[] = [];
  new FrameParser((message) => {
    messages.push(message);
    return true;
  }).consume(bytes);
  return messages;
}

function spoil(frame: Buffer, at: number, bytes: readonly number[]): Buffer {
  const copy = Buffer.from(frame);
  Buffer.from(bytes).copy(copy, at);
  return copy;
}

const stamp = { sequence: 5, timeUs: 6 };
const data = Buffer.alloc(512, 1);
const write = Buffer.concat([encode.encodeProtectedWrite(1n, 0, 512, 0, stamp, data), data]);
const report = encode.encodeReport([{ name: 'a', volumeId: 1n, sizeBytes: 512 }], true);
const dirty = encode.encodeDirty(1n, stamp, [{ offset: 0, length: 512 }], false);
const answer = encode.encodeRemoteIoResponse(1, 1n, 0, 0, { sequence: 1, allZero: true });
const HUGE = [255, 255, 255, 255, 255, 255, 255, 255];

describe('lengths', () => {
  for (const [id, limit] of Object.entries(MAX_PAYLOAD_BYTES)) {
    const name = COMMAND_NAMES.get(Number(id))!;
    it(`of ${name} above its limit are refused from the head alone`, () => {
      const head = encode.encodePing('ping', 0n, 0);
      head.writeUInt16LE(Number(id), 2);
      for (const length of [limit + 1, 2 ** 31, 2 ** 32 - 1]) {
        head.writeUInt32LE(length, 4);
        const parser = new FrameParser(() => true);
        expect(() => parser.consume(head)).toThrow(
          `${name} of ${length} bytes; at most ${limit} are allowed`,
        );
        expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES);
      }
      head.writeUInt32LE(limit, 4);
      const parser = new FrameParser(() => true);
      if (limit > 0) {
        expect(parser.consume(head)).toBe(0);
        expect(parser.wantBytes).toBe(FRAME_HEADER_BYTES + limit);
      }
    });
  }

  it('of commands of a later version are limited too', () => {
    const head = encode.encodePing('ping', 0n, 0);
    head.writeUInt16LE(300, 2);
    head.writeUInt32LE(MAX_TEXT_BYTES + 1, 4);
    expect(() => parseAll(head)).toThrow('command 300 of 4097 bytes');
  });

  it('have a limit for every command', () => {
    for (const [name, id] of Object.entries(REP_CMD)) {
      if (name !== 'CHECKPOINT') expect(MAX_PAYLOAD_BYTES[id], name).toBeTypeOf('number');
    }
  });
});

describe('contradictions', () => {
  const cases: ReadonlyArray<readonly [what: string, frame: Buffer, message: RegExp]> = [
    ['a wrong first magic', spoil(write, 0, [0x23]), /magic is 0x1123\/0x3344.*not a repagent peer/],
    ['a wrong second magic', spoil(write, FRAME_HEADER_BYTES - 4, [0x45]), /0x3345/],
    ['upper bits in the second magic', spoil(write, FRAME_HEADER_BYTES - 1, [1]), /0x1003344/],
    ['an unknown command of the RFC range', spoil(write, 2, [8]), /unknown command 8/],
    ['command 0', spoil(write, 2, [0]), /unknown command 0/],
    ['a write of another size than its payload', spoil(write, 24, [2]), /512 bytes of payload, not 1024/],
    [
      'a write with a wrong checksum',
      spoil(write, FRAME_HEADER_BYTES, [2]),
      /PROTECTED_WRITE 5: payload does not match its crc32/,
    ],
    ['a failed write with a payload', spoil(write, 28, [255]), /512 bytes of payload, not 0/],
    ['a write beyond any disk', spoil(write, 16, HUGE), /offset_sectors is above/],
    [
      'a write whose end is beyond any disk',
      spoil(write, 16, [255, 255, 255, 255, 255, 255, 15, 0]),
      /beyond the largest disk/,
    ],
    ['a sequence above 2^53', spoil(write, 32, HUGE), /sequence is above/],
    ['a time above 2^53', spoil(write, 40, HUGE), /time_us is above/],
    ['a negative number of volumes', spoil(report, 8, [255, 255, 255, 255]), /of -1 volumes/],
    ['more volumes than are allowed', spoil(report, 8, [1, 8]), /of 2049 volumes; 0..2048/],
    ['more volumes than were sent', spoil(report, 8, [2]), /272 bytes of payload, not 544/],
    [
      'a volume name without an end',
      spoil(report, FRAME_HEADER_BYTES, Array(256).fill(65)),
      /name of volume 0 has no NUL/,
    ],
    [
      'a volume name that is not UTF-8',
      spoil(report, FRAME_HEADER_BYTES, [0xff]),
      /name of volume 0 is not UTF-8/,
    ],
    ['half a surrogate in a volume name', spoil(report, FRAME_HEADER_BYTES, [0xed, 0xa0, 0x80]), /not UTF-8/],
    ['a volume larger than any disk', spoil(report, FRAME_HEADER_BYTES + 264, HUGE), /size_bytes is above/],
    [
      'a name shorter than it says',
      spoil(encode.encodeStartProtect(1n, 'abc', null), 16, [4]),
      /3 bytes of payload, not 4/,
    ],
    [
      'a NUL in a name',
      spoil(encode.encodeStartProtect(1n, 'abc', null), FRAME_HEADER_BYTES, [0]),
      /contains a NUL/,
    ],
    [
      'a read request with a payload',
      Buffer.concat([spoil(encode.encodeRemoteIoRequest(1, 1n, 0, 512, true), 4, [1]), Buffer.alloc(1)]),
      /1 bytes of payload, not 0/,
    ],
    [
      'an answer of zeroes with a payload',
      Buffer.concat([spoil(answer, 4, [1]), Buffer.alloc(1)]),
      /without data has 1 bytes/,
    ],
    [
      'a failed answer with a payload',
      Buffer.concat([spoil(spoil(answer, 4, [1]), 12, [255]), Buffer.alloc(1)]),
      /without data has 1 bytes/,
    ],
    [
      'an ACK of an unknown state',
      spoil(encode.encodeAck(1n, 1, 'failed', 0, 0), 24, [9]),
      /ACK state 9; 0..4/,
    ],
    [
      'zeroes of an unknown kind',
      spoil(encode.encodeProtectedZero(1n, 0, 512, true, stamp), 48, [2]),
      /kind 2/,
    ],
    [
      'zeroes beyond any disk',
      spoil(encode.encodeProtectedZero(1n, 512, 512, true, stamp), 24, [0, 0, 0, 0, 0, 0, 16, 0]),
      /beyond the largest disk/,
    ],
    ['more extents than were sent', spoil(dirty, 32, [2]), /16 bytes of payload, not 32/],
    ['more extents than are allowed', spoil(dirty, 32, [1, 16]), /of 4097 extents; at most 4096/],
    [
      'an extent beyond any disk',
      spoil(dirty, FRAME_HEADER_BYTES + 8, [0, 0, 0, 0, 0, 0, 16, 0]),
      /beyond the largest disk/,
    ],
    [
      'a digest that is missing',
      encode.encodeHashResponse(1, 1n, 0, 1, Buffer.alloc(0)),
      /0 bytes of payload, not 32/,
    ],
    [
      'a digest beside an error',
      encode.encodeHashResponse(1, 1n, -1, 1, Buffer.alloc(32)),
      /32 bytes of payload, not 0/,
    ],
    [
      'an error text that is not UTF-8',
      spoil(encode.encodeVolumeError(1n, 'x'), FRAME_HEADER_BYTES, [0x80]),
      /not UTF-8/,
    ],
  ];
  for (const [what, frame, message] of cases) {
    it(`are refused: ${what}`, () => {
      expect(() => parseAll(frame)).toThrow(WireError);
      expect(() => parseAll(frame)).toThrow(message);
    });
  }

  it('are not made where there are none: the largest numbers that are allowed', () => {
    const last = MAX_DISK_BYTES - 512;
    expect(
      parseAll(
        encode.encodeProtectedZero(2n ** 64n - 1n, last, 512, false, {
          sequence: 2 ** 53 - 1,
          timeUs: 2 ** 53 - 1,
        }),
      ),
    ).toMatchObject([{ volumeId: 2n ** 64n - 1n, offset: last, length: 512, sequence: 2 ** 53 - 1 }]);
  });

  it('leave hostile remote I/O ranges to the agent, which answers them', () => {
    const request = spoil(encode.encodeRemoteIoRequest(1, 1n, 0, 512, true), 12, [255, 255, 255, 255]);
    expect(parseAll(spoil(request, 24, HUGE))).toMatchObject([
      { sizeSectors: -1, offsetSectors: 2n ** 64n - 1n },
    ]);
  });
});

describe('names', () => {
  it('that differ only in a byte order mark stay different', () => {
    expect(parseAll(encode.encodeStartProtect(1n, '\ufeffdisk', null))).toMatchObject([
      { name: '\ufeffdisk' },
    ]);
    expect(
      parseAll(encode.encodeReport([{ name: '\ufeffa', volumeId: 1n, sizeBytes: 512 }], true)),
    ).toMatchObject([{ volumes: [{ name: '\ufeffa' }] }]);
  });

  it('that are too long are a bug of the sender', () => {
    expect(() =>
      encode.encodeReport([{ name: 'x'.repeat(256), volumeId: 1n, sizeBytes: 512 }], true),
    ).toThrow("doesn't fit");
    expect(() => encode.encodeReport([{ name: 'a\0b', volumeId: 1n, sizeBytes: 512 }], true)).toThrow(
      "doesn't fit",
    );
  });

  it('in errors are cut to what fits, between characters', () => {
    const [error] = parseAll(encode.encodeVolumeError(1n, `${'x'.repeat(4095)}\u00e9\0`));
    expect(error).toMatchObject({ text: 'x'.repeat(4095) });
    expect(parseAll(encode.encodeVolumeError(1n, 'a\0b'))).toMatchObject([{ text: 'a b' }]);
  });
});

describe('damage at random', () => {
  it('gives messages or a WireError, nothing else', () => {
    fc.assert(
      fc.property(
        fc.array(anySample, { minLength: 1, maxLength: 3 }),
        fc.array(fc.tuple(fc.nat(5000), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        (samples, damage) => {
          const stream = Buffer.concat(samples.map(({ frame }) => frame));
          for (const [at, byte] of damage) stream[at % stream.length] = byte;
          try {
            parseAll(stream);
          } catch (error) {
            expect(error).toBeInstanceOf(WireError);
          }
        },
      ),
      { numRuns: 1500 },
    );
  });
});
