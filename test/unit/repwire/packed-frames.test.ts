// PACKED: what comes out is what went in, in order; and whatever a peer puts in instead ends the parse with a reason,
// without more memory than the frame named within the limit.
import { brotliCompressSync, constants, deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { MAX_PACKED_CONTENT_BYTES } from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FrameParser } from '../../../src/repwire/frame-parser.ts';
import type { Packed, RepMessage } from '../../../src/repwire/messages.ts';
import { takeFrames, unpack, unpackOnPool } from '../../../src/repwire/packed-frames.ts';
import { WireError } from '../../../src/wire/struct.ts';
import { anySample, samplesByKind } from './arbitrary-messages.ts';

const FASTEST = { params: { [constants.BROTLI_PARAM_QUALITY]: 0 } };

/** A message as a peer may send it; it need not be smaller. */
function packedOf(content: Buffer): Packed {
  return { kind: 'packed', codec: 'brotli', contentBytes: content.length, data: brotliCompressSync(content) };
}

function inside(message: Packed): RepMessage[] {
  const messages: RepMessage[] = [];
  takeFrames(unpack(message), (one) => {
    messages.push(one);
    return true;
  });
  return messages;
}

function parse(frame: Buffer): RepMessage[] {
  const messages: RepMessage[] = [];
  new FrameParser((message) => {
    messages.push(message);
    return true;
  }).consume(frame);
  return messages;
}

const data = Buffer.alloc(4096, 'pattern');
const stamp = { sequence: 5, timeUs: 6 };
const write = Buffer.concat([encode.encodeProtectedWrite(1n, 0, 4096, 0, stamp, data), data]);

describe('what is packed', () => {
  it('comes out the same and in order', () => {
    const { protectedWrite, protectedZero, protectedFlush, remoteIoResponse } = samplesByKind;
    const packable = fc.oneof(protectedWrite, protectedZero, protectedFlush, remoteIoResponse);
    fc.assert(
      fc.property(fc.array(packable, { minLength: 1, maxLength: 12 }), (all) => {
        const content = Buffer.concat(all.map(({ frame }) => frame));
        expect(inside(packedOf(content))).toEqual(parse(content));
        expect(parse(content)).toHaveLength(all.length);
      }),
    );
  });

  it('goes through the wire with its numbers, and keeps its data to itself', () => {
    const { data: packed } = packedOf(write);
    const frame = Buffer.concat([encode.encodePacked('brotli', write.length, packed.length), packed]);
    const [message] = parse(frame);
    expect(message).toEqual({ kind: 'packed', codec: 'brotli', contentBytes: write.length, data: packed });
    const [inner] = inside(message as Packed);
    frame.fill(0);
    expect(inner).toMatchObject({ kind: 'protectedWrite', sequence: 5, data });
  });

  it('stops where its taker says so, for good', () => {
    const seen: string[] = [];
    takeFrames(Buffer.concat([write, write, write]), (message) => {
      seen.push(message.kind);
      return seen.length < 2;
    });
    expect(seen).toHaveLength(2);
  });
});

describe('a hostile PACKED', () => {
  function frameOf(codec: number, contentBytes: number, payload: Buffer): Buffer {
    const head = encode.encodePacked('brotli', 0, payload.length);
    head.writeUInt32LE(codec, 8);
    head.writeUInt32LE(contentBytes, 12);
    return Buffer.concat([head, payload]);
  }

  it.each([
    ['no codec', 0, 100, 10, /codec 0; allowed: 1$/],
    ['a codec of later', 2, 100, 10, /codec 2/],
    ['nothing inside', 1, 0, 0, /PACKED of 0 bytes; 56\.\.4194360/],
    ['less than a frame inside', 1, 55, 10, /PACKED of 55 bytes/],
    ['too much inside', 1, MAX_PACKED_CONTENT_BYTES + 1, 10, /PACKED of 4194361 bytes/],
    ['the largest number', 1, 2 ** 32 - 1, 10, /PACKED of 4294967295 bytes/],
    ['no gain', 1, 100, 100, /takes 100: it must be less/],
  ])('is refused before memory is taken: %s', (_what, codec, contentBytes, payloadBytes, message) => {
    expect(() => parse(frameOf(codec, contentBytes, Buffer.alloc(payloadBytes)))).toThrow(WireError);
    expect(() => parse(frameOf(codec, contentBytes, Buffer.alloc(payloadBytes)))).toThrow(message);
  });

  it('that is a bomb is not unpacked beyond what it named', async () => {
    const small = brotliCompressSync(Buffer.alloc(64 * MiB), FASTEST);
    const bomb: Packed = { kind: 'packed', codec: 'brotli', contentBytes: 4096, data: small };
    expect(small.length).toBeLessThan(MiB);
    const before = process.memoryUsage().arrayBuffers;
    expect(() => unpack(bomb)).toThrow(/PACKED can't be unpacked/);
    await expect(unpackOnPool(bomb)).rejects.toThrow(/PACKED can't be unpacked/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MiB);
  });

  it('with another length than it named, or cut, or of another format, is refused', async () => {
    const content = Buffer.concat([write, write]);
    const good = packedOf(content);
    expect(inside(good)).toHaveLength(2);
    expect(await unpackOnPool(good)).toEqual(content);
    const refused = async (bad: Packed, why = /PACKED/): Promise<void> => {
      expect(() => unpack(bad)).toThrow(WireError);
      await expect(unpackOnPool(bad)).rejects.toThrow(WireError);
      await expect(unpackOnPool(bad)).rejects.toThrow(why);
    };
    for (const contentBytes of [content.length - 1, content.length + 1, content.length + 64, 56, MiB]) {
      await refused({ ...good, contentBytes });
    }
    for (let cut = 0; cut < good.data.length; cut += 1) {
      await refused({ ...good, data: good.data.subarray(0, cut) });
    }
    const long = Buffer.concat([good.data, Buffer.from('and more')]);
    await refused({ ...good, data: long }, /after its end/);
    for (const other of [gzipSync(content), deflateSync(content), deflateRawSync(content), content]) {
      await refused({ ...good, data: other });
    }
  });

  it('with what may not be inside is refused', () => {
    const packable = ['protectedWrite', 'protectedZero', 'protectedFlush', 'remoteIoResponse'];
    fc.assert(
      fc.property(
        anySample.filter(({ message }) => !packable.includes(message.kind)),
        ({ frame, message }) => {
          const content = Buffer.concat([write, frame]);
          expect(() => inside(packedOf(content))).toThrow(`${message.kind} must not be inside PACKED`);
        },
      ),
    );
  });

  it('whose frames are cut or damaged is refused, after what came before', () => {
    const cut = Buffer.concat([write, write.subarray(0, write.length - 1)]);
    const seen: RepMessage[] = [];
    const take = (content: Buffer) => () =>
      takeFrames(unpack(packedOf(content)), (message) => {
        seen.push(message);
        return true;
      });
    expect(take(cut)).toThrow(/ends inside a frame/);
    expect(seen).toHaveLength(1);
    const damaged = Buffer.from(write);
    damaged[100]! += 1;
    expect(take(damaged)).toThrow(/does not match its crc32/);
    expect(take(Buffer.alloc(100))).toThrow(/frame magic/);
  });

  it('of any bytes never does worse', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 4 }),
        fc.integer({ min: 56, max: 10_000 }),
        (bytes, changes, contentBytes) => {
          const spoiled = Buffer.from(packedOf(write).data);
          for (const [at, value] of changes) if (at < spoiled.length) spoiled[at] = value;
          for (const message of [Buffer.from(bytes), spoiled]) {
            try {
              inside({ kind: 'packed', codec: 'brotli', contentBytes, data: message });
            } catch (error) {
              expect(error).toBeInstanceOf(WireError);
            }
          }
        },
      ),
    );
  });
});
