// Replies cut in every way, and replies that are none.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReplyParser, replyErrorName } from '../../../src/nbdwire/client-replies.ts';
import { NBD_ERROR, NBD_STRUCTURED_REPLY_MAGIC } from '../../../src/nbdwire/constants.ts';
import { encodeSimpleReply } from '../../../src/nbdwire/reply.ts';
import { WireError } from '../../../src/wire/struct.ts';

function header(cookieLow: number, error = 0): Buffer {
  const bytes = Buffer.alloc(16);
  encodeSimpleReply(bytes, 0, error, 7, cookieLow);
  return bytes;
}

/** Parses, with a target of `payloads[cookie]` bytes for a reply without error; tells what arrived. */
function parser(payloads: Readonly<Record<number, number>>): { replies: ReplyParser; events: string[] } {
  const events: string[] = [];
  let target: Buffer | undefined;
  const replies = new ReplyParser({
    replied(high, low, error) {
      events.push(`${high}/${low} ${error}`);
      const length = error === 0 ? payloads[low] : undefined;
      target = length === undefined ? undefined : Buffer.alloc(length, 0xee);
      return target;
    },
    filled() {
      events.push(`filled ${target!.toString('latin1')}`);
    },
  });
  return { replies, events };
}

describe('ReplyParser', () => {
  const stream = Buffer.concat([
    header(1),
    header(2),
    Buffer.from('hello'),
    header(3, NBD_ERROR.EIO),
    header(4),
    Buffer.from('x'),
    header(1, NBD_ERROR.EIO),
  ]);
  const expected = ['7/1 0', '7/2 0', 'filled hello', '7/3 5', '7/4 0', 'filled x', '7/1 5'];
  const payloads = { 2: 5, 3: 100, 4: 1 };

  it('finds replies and payloads wherever the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 12 }), (cuts) => {
        const { replies, events } = parser(payloads);
        const edges = [0, ...cuts.sort((a, b) => a - b), stream.length];
        for (const [i, start] of edges.slice(0, -1).entries()) replies.push(stream, start, edges[i + 1]!);
        expect(events).toEqual(expected);
        expect(replies.atBoundary).toBe(true);
      }),
    );
  });

  it('finds them byte by byte, and knows when it is in the middle', () => {
    const { replies, events } = parser(payloads);
    const boundaries: number[] = [];
    for (let at = 0; at < stream.length; at += 1) {
      replies.push(stream, at, at + 1);
      if (replies.atBoundary) boundaries.push(at + 1);
    }
    expect(events).toEqual(expected);
    expect(boundaries).toEqual([16, 37, 53, 70, 86]);
  });

  it('copies a payload straight into its target, past nothing', () => {
    const target = Buffer.alloc(8, 0xee);
    const replies = new ReplyParser({ replied: () => target.subarray(2, 6), filled() {} });
    replies.push(Buffer.concat([header(1), Buffer.from('abcd')]), 0, 20);
    expect(target.toString('hex')).toBe('eeee61626364eeee');
  });

  it.each([
    ['a structured reply', NBD_STRUCTURED_REPLY_MAGIC, /structured reply, which was not negotiated/],
    ['nonsense', 0xdeadbeef, /0xdeadbeef/],
    ['zeroes', 0, /0x00000000/],
  ])('refuses %s', (_name, magic, words) => {
    for (const size of [16, 1]) {
      const { replies, events } = parser({});
      const bytes = header(1);
      bytes.writeUInt32BE(magic);
      const push = (): void => {
        for (let at = 0; at < 16; at += size) replies.push(bytes, at, at + size);
      };
      expect(push).toThrow(WireError);
      expect(push).toThrow(words);
      expect(events).toEqual([]);
    }
  });
});

describe('replyErrorName', () => {
  it('names what the protocol names', () => {
    for (const [name, value] of Object.entries(NBD_ERROR)) {
      if (name !== 'OK') expect(replyErrorName(value)).toBe(name);
    }
  });

  it.each([2, 28 + 1, 2 ** 32 - 1])('takes %d for EINVAL', (value) => {
    expect(replyErrorName(value)).toBe('EINVAL');
  });
});
