// Replies of every style cut in every way, and replies that are none: each lie of a server ends the connection, and
// none takes memory, hangs, or passes for data.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReplyParser, replyErrorName } from '../../../src/nbdwire/client-replies.ts';
import { NBD_CMD, NBD_ERROR, NBD_REPLY_TYPE } from '../../../src/nbdwire/constants.ts';
import { MAX_ISLANDS } from '../../../src/nbdwire/read-coverage.ts';
import type { ReplyStyle } from '../../../src/nbdwire/reply.ts';
import { type AwaitedRequest, ReplyProgress } from '../../../src/nbdwire/reply-progress.ts';
import { MAX_STATUS_EXTENTS, StatusList } from '../../../src/nbdwire/status-list.ts';
import { WireError } from '../../../src/wire/struct.ts';

// Written out here, and not with the layouts under test.
const numbers = (...fields: Array<[number, number | bigint]>): Buffer =>
  Buffer.concat(
    fields.map(([size, value]) =>
      Buffer.from(
        BigInt(value)
          .toString(16)
          .padStart(2 * size, '0'),
        'hex',
      ),
    ),
  );
const u32 = (value: number): Buffer => numbers([4, value]);
const u64 = (value: number | bigint): Buffer => numbers([8, value]);
const join = (...parts: Buffer[]): Buffer => Buffer.concat(parts);

const DONE = 1;
const COOKIE_HIGH = 7;
const OFFSET = 1000;
const ALLOCATION = 5;

const simple = (low: number, error = 0): Buffer =>
  numbers([4, 0x67446698], [4, error], [4, COOKIE_HIGH], [4, low]);

/** One chunk, of the structured or the extended style. */
function chunk(style: ReplyStyle, low: number, flags: number, type: number, ...data: Buffer[]): Buffer {
  const payload = join(...data);
  const cookie: Array<[number, number]> = [
    [4, COOKIE_HIGH],
    [4, low],
  ];
  const head =
    style === 'extended'
      ? numbers([4, 0x6e8a278c], [2, flags], [2, type], ...cookie, [8, OFFSET], [8, payload.length])
      : numbers([4, 0x668e33ef], [2, flags], [2, type], ...cookie, [4, payload.length]);
  return join(head, payload);
}

class Asked implements AwaitedRequest {
  readonly offset = OFFSET;
  readonly buffer: Buffer | undefined;
  readonly status: StatusList | undefined;
  readonly progress = new ReplyProgress();
  readonly command: number;
  readonly length: number;

  constructor(command: number, length: number) {
    this.command = command;
    this.length = length;
    this.buffer = command === NBD_CMD.READ ? Buffer.alloc(length, 0xee) : undefined;
    this.status = command === NBD_CMD.BLOCK_STATUS ? new StatusList() : undefined;
    this.status?.reset(length);
    this.progress.begin(OFFSET, length);
  }

  toString(): string {
    return `request ${this.command}`;
  }
}

interface Parsing {
  readonly parser: ReplyParser<Asked>;
  readonly asked: Map<number, Asked>;
  readonly events: string[];
}

/** @param requests by the low half of their cookies: command and length */
function parsing(style: ReplyStyle, requests: Readonly<Record<number, [number, number]>>): Parsing {
  const asked = new Map(
    Object.entries(requests).map(([low, [command, length]]) => [Number(low), new Asked(command, length)]),
  );
  const events: string[] = [];
  const parser = new ReplyParser<Asked>(style, ALLOCATION, {
    find(high, low) {
      const request = high === COOKIE_HIGH ? asked.get(low) : undefined;
      if (!request) throw new WireError(`nobody waits for ${high}/${low}`);
      return request;
    },
    completed(request) {
      const low = [...asked].find(([, one]) => one === request)![0];
      events.push(`${low} ${request.progress.error} ${request.progress.errorText}`.trim());
    },
  });
  return { parser, asked, events };
}

function feed({ parser }: Parsing, bytes: Buffer, size = bytes.length): void {
  for (let at = 0; at < bytes.length; at += size) parser.push(bytes, at, Math.min(bytes.length, at + size));
}

const { READ, WRITE, FLUSH, BLOCK_STATUS } = NBD_CMD;
const { NONE, OFFSET_DATA, OFFSET_HOLE, ERROR, ERROR_OFFSET } = NBD_REPLY_TYPE;

describe('simple replies', () => {
  const stream = join(
    ...[simple(1), simple(2), Buffer.from('hello'), simple(3, NBD_ERROR.EIO), simple(4), Buffer.from('x')],
    simple(5, NBD_ERROR.ENOSPC),
  );
  const requests: Record<number, [number, number]> = {
    ...{ 1: [WRITE, 512], 2: [READ, 5], 3: [READ, 100], 4: [READ, 1], 5: [FLUSH, 0] },
  };
  const expected = ['1 0', '2 0', '3 5', '4 0', '5 28'];

  it('are found, with their data, wherever the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 12 }), (cuts) => {
        const state = parsing('simple', requests);
        const edges = [0, ...cuts.sort((a, b) => a - b), stream.length];
        for (const [i, start] of edges.slice(0, -1).entries()) {
          state.parser.push(stream, start, edges[i + 1]!);
        }
        expect(state.events).toEqual(expected);
        expect(state.asked.get(2)!.buffer!.toString()).toBe('hello');
        expect(state.parser.atBoundary).toBe(true);
      }),
    );
  });

  it('have boundaries that are known', () => {
    const { parser } = parsing('simple', requests);
    const boundaries: number[] = [];
    for (let at = 0; at < stream.length; at += 1) {
      parser.push(stream, at, at + 1);
      if (parser.atBoundary) boundaries.push(at + 1);
    }
    expect(boundaries).toEqual([16, 37, 53, 70, 86]);
  });
});

for (const style of ['structured', 'extended'] as const) {
  describe(`${style} replies`, () => {
    const of = (flags: number, type: number, ...data: Buffer[]): Buffer =>
      chunk(style, 1, flags, type, ...data);
    const data = (flags: number, at: number, text: string): Buffer =>
      of(flags, OFFSET_DATA, u64(OFFSET + at), Buffer.from(text));
    const hole = (flags: number, at: number, length: number): Buffer =>
      of(flags, OFFSET_HOLE, u64(OFFSET + at), u32(length));
    const error = (flags: number, value: number, words: string, rest = Buffer.alloc(0)): Buffer =>
      of(flags, ERROR, u32(value), numbers([2, Buffer.byteLength(words)]), Buffer.from(words), rest);
    const errorAt = (flags: number, value: number, words: string, offset: number | bigint): Buffer =>
      of(flags, ERROR_OFFSET, u32(value), numbers([2, words.length]), Buffer.from(words), u64(offset));
    const done = of(DONE, NONE);

    const GOOD: Array<[string, number, Buffer, string, string]> = [
      ['one chunk', 4, data(DONE, 0, 'abcd'), 'abcd', '1 0'],
      ['a hole', 4, hole(DONE, 0, 4), '\0\0\0\0', '1 0'],
      ['data, then the end apart', 4, join(data(0, 0, 'abcd'), done), 'abcd', '1 0'],
      [
        'pieces from behind',
        8,
        join(data(0, 6, 'gh'), hole(0, 3, 3), data(0, 2, 'c'), data(DONE, 0, 'ab')),
        'abc\0\0\0gh',
        '1 0',
      ],
      [
        'pieces with gaps that close last',
        6,
        join(
          data(0, 1, 'b'),
          data(0, 3, 'd'),
          data(0, 5, 'f'),
          data(0, 0, 'a'),
          data(0, 2, 'c'),
          data(1, 4, 'e'),
        ),
        'abcdef',
        '1 0',
      ],
      ['an error without words', 2, error(DONE, 5, ''), '\xee\xee', '1 5'],
      ['an error with words', 2, error(DONE, 28, 'full'), '\xee\xee', '1 28 "full"'],
      ['words that would act', 2, error(DONE, 5, '\u001b[2J\u202e'), '\xee\xee', '1 5 "\\u001b[2J?"'],
      ['an error at a place', 2, errorAt(DONE, 5, 'bad', OFFSET + 1), '\xee\xee', '1 5 "bad" at 1001'],
      [
        'an error behind data',
        4,
        join(data(0, 0, 'ab'), errorAt(DONE, 5, '', OFFSET + 2)),
        'ab\xee\xee',
        '1 5 at 1002',
      ],
      [
        'the first of two errors',
        2,
        join(error(0, 28, 'first'), error(DONE, 5, 'x')),
        '\xee\xee',
        '1 28 "first"',
      ],
      ['an error, then the end apart', 2, join(error(0, 5, ''), done), '\xee\xee', '1 5'],
      [
        'an error of a kind that nobody knows',
        2,
        of(DONE, 0x8fff, u32(12), numbers([2, 2]), Buffer.from('hm'), Buffer.alloc(99)),
        '\xee\xee',
        '1 12 "hm"',
      ],
    ];
    it.each(GOOD)('%s: whole, and in pieces', (_name, length, bytes, text, event) => {
      for (const size of [bytes.length, 1, 2, 3, 7, 19]) {
        const state = parsing(style, { 1: [READ, length] });
        feed(state, bytes, size);
        expect(state.events).toEqual([event]);
        expect(state.asked.get(1)!.buffer!.toString('latin1')).toBe(text);
        expect(state.parser.atBoundary).toBe(true);
      }
    });

    it('of several requests may be mixed', () => {
      const state = parsing(style, { 1: [READ, 2], 2: [READ, 2], 3: [WRITE, 2] });
      const two = chunk(style, 2, DONE, OFFSET_DATA, u64(OFFSET), Buffer.from('cd'));
      feed(state, join(data(0, 1, 'b'), chunk(style, 3, DONE, NONE), two, data(DONE, 0, 'a')), 5);
      expect(state.events).toEqual(['3 0', '2 0', '1 0']);
      expect(state.asked.get(1)!.buffer!.toString()).toBe('ab');
    });

    const BAD: Array<[string, Buffer, RegExp]> = [
      ['a byte too few', data(DONE, 0, 'abc'), /before all of it was delivered/],
      ['nothing at all', done, /before all of it was delivered/],
      ['a gap', join(data(0, 0, 'a'), data(DONE, 2, 'cd')), /before all of it/],
      ['data before what was asked', data(DONE, -1, 'abcd'), /outside/],
      ['data behind what was asked', data(DONE, 1, 'abcd'), /outside/],
      ['more data than was asked', data(DONE, 0, 'abcde'), /OFFSET_DATA and 13 bytes/],
      ['data at 2^64 - 1', of(DONE, OFFSET_DATA, u64(2n ** 64n - 1n), Buffer.from('ab')), /outside/],
      ['no data', data(DONE, 0, ''), /OFFSET_DATA and 8 bytes/],
      ['a hole that begins before', hole(DONE, -1, 4), /outside/],
      ['a hole that goes on behind', hole(DONE, 0, 5), /outside/],
      ['a hole of 2^32 - 1 bytes', hole(DONE, 0, 2 ** 32 - 1), /outside/],
      ['a hole of no bytes', hole(0, 0, 0), /no bytes/],
      ['a hole of 11 bytes of payload', of(DONE, OFFSET_HOLE, Buffer.alloc(11)), /OFFSET_HOLE and 11/],
      ['the same data twice', join(data(0, 0, 'ab'), data(DONE, 0, 'ab')), /delivered before/],
      ['data that overlap from below', join(data(0, 2, 'cd'), data(0, 0, 'abc')), /delivered before/],
      ['data that overlap from above', join(data(0, 1, 'b'), data(0, 1, 'bcd')), /delivered before/],
      ['a hole over data', join(data(0, 1, 'b'), hole(0, 0, 4)), /delivered before/],
      ['an end that is none', of(0, NONE), /NONE and 0/],
      ['an end with payload', of(DONE, NONE, Buffer.alloc(1)), /NONE and 1/],
      ['a chunk behind the end', join(data(DONE, 0, 'abcd'), done), /two replies/],
      ['status in reply to a READ', of(DONE, 5, u32(ALLOCATION), u32(4), u32(0)), /BLOCK_STATUS and 12/],
      ['a type that does not exist', of(DONE, 77, Buffer.alloc(9)), /type 77/],
      ['an error that is success', error(DONE, 0, ''), /ERROR and 6/],
      ['an error too short', of(DONE, ERROR, Buffer.alloc(5)), /ERROR and 5/],
      [
        'words longer than the chunk',
        of(DONE, ERROR, u32(5), numbers([2, 9]), Buffer.from('x')),
        /ERROR and 7/,
      ],
      ['an error with something behind', error(DONE, 5, 'x', Buffer.alloc(1)), /ERROR and 8/],
      ['an error of 4 GiB', of(DONE, ERROR, Buffer.alloc(5000)), /ERROR and 5000/],
      ['an error elsewhere', errorAt(DONE, 5, '', OFFSET + 4), /ERROR_OFFSET and 14/],
      ['an error at 2^64 - 1', errorAt(DONE, 5, '', 2n ** 64n - 1n), /ERROR_OFFSET/],
      ['a cookie of nobody', chunk(style, 9, DONE, NONE), /nobody waits/],
      ['a simple reply', join(simple(1), Buffer.alloc(16)), /simple repl/],
      ['nonsense', Buffer.alloc(32, 0xab), /0xabababab/],
    ];
    it.each(BAD)('end the connection with %s', (_name, bytes, words) => {
      for (const size of [bytes.length, 1]) {
        const state = parsing(style, { 1: [READ, 4] });
        expect(() => feed(state, bytes, size)).toThrow(words);
        expect(state.events).toEqual(words.source === 'two replies' ? ['1 0'] : []);
      }
    });

    it('are judged by their header: no length is waited for or taken that is not allowed', () => {
      const wide = style === 'extended' ? 8 : 4;
      for (const [type, length] of [
        [OFFSET_DATA, 2 ** 32 - 1],
        [ERROR, 2 ** 32 - 1],
        [0x8fff, 2 ** 31],
        [OFFSET_HOLE, 2 ** 32 - 1],
        ...(style === 'extended' ? [[OFFSET_DATA, 2 ** 53 + 2]] : []),
      ] as Array<[number, number]>) {
        const bytes = of(DONE, type);
        numbers([wide, BigInt(length)]).copy(bytes, bytes.length - wide);
        expect(() => feed(parsing(style, { 1: [READ, 4] }), bytes)).toThrow(WireError);
      }
    });

    it('may come in many pieces, but not in any number that lie apart', () => {
      const length = 3 * MAX_ISLANDS;
      const state = parsing(style, { 1: [READ, length] });
      for (let i = 0; i < MAX_ISLANDS; i += 1) feed(state, data(0, 2 * i + 1, 'x'));
      expect(() => feed(state, data(0, 2 * MAX_ISLANDS + 1, 'x'))).toThrow(/pieces that lie apart/);
    });

    it('deliver a READ exactly when every byte came once, in any order', () => {
      const pieces = fc
        .array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 30 })
        .chain((sizes) =>
          fc.tuple(
            fc.constant(sizes),
            fc.shuffledSubarray(
              sizes.map((_, i) => i),
              { minLength: sizes.length },
            ),
            fc.option(fc.nat(sizes.length - 1)),
          ),
        );
      fc.assert(
        fc.property(pieces, ([sizes, order, missing]) => {
          const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((a, b) => a + b, 0));
          const total = sizes.reduce((a, b) => a + b, 0);
          const state = parsing(style, { 1: [READ, total] });
          const whole = Buffer.from(Array.from({ length: total }, (_, i) => (i * 7) % 251));
          for (const i of order) {
            if (i === missing) continue;
            const start = starts[i]!;
            feed(state, of(0, OFFSET_DATA, u64(OFFSET + start), whole.subarray(start, start + sizes[i]!)));
          }
          if (missing === null) {
            feed(state, done);
            expect(state.asked.get(1)!.buffer!.equals(whole)).toBe(true);
          } else expect(() => feed(state, done)).toThrow(/before all of it/);
        }),
      );
    });

    it('survive any bytes: they are refused or waited for, never believed', () => {
      const random = fc.uint8Array({ maxLength: 200 });
      const twisted = fc.tuple(fc.nat(3), fc.nat(150), random);
      const seeds = [
        data(DONE, 0, 'abcd'),
        hole(0, 0, 4),
        errorAt(DONE, 5, 'words', OFFSET),
        extents([[4, 0]]),
      ];
      fc.assert(
        fc.property(twisted, fc.integer({ min: 1, max: 40 }), ([seed, at, bytes], size) => {
          const stream = join(seeds[seed]!, Buffer.from(bytes));
          if (bytes.length > 0) Buffer.from(bytes).copy(stream, at % seeds[seed]!.length);
          const state = parsing(style, { 1: [seed === 3 ? BLOCK_STATUS : READ, 4] });
          try {
            feed(state, stream, size);
          } catch (thrown) {
            expect(thrown).toBeInstanceOf(WireError);
          }
          expect(state.events.length).toBeLessThanOrEqual(1);
        }),
        { numRuns: 2000 },
      );
    });

    /** A status chunk. */
    function extents(
      list: Array<[number | bigint, number]>,
      id = ALLOCATION,
      flags = DONE,
      count = list.length,
    ): Buffer {
      if (style === 'structured') {
        return of(flags, 5, u32(id), ...list.map(([length, state]) => numbers([4, length], [4, state])));
      }
      return of(
        flags,
        6,
        u32(id),
        u32(count),
        ...list.map(([length, state]) => numbers([8, length], [8, state])),
      );
    }
    const told = (state: Parsing): Array<[number, number]> => {
      const status = state.asked.get(1)!.status!;
      return Array.from({ length: status.count }, (_, i) => [status.lengthOf(i), status.flagsOf(i)]);
    };

    it('tell extents: cut to the range, neighbours merged, in any pieces', () => {
      const bytes = extents([
        [100, 3],
        [50, 3],
        [50, 0],
        [300, 2],
        [7, 1],
      ]);
      for (const size of [bytes.length, 1, 5]) {
        const state = parsing(style, { 1: [BLOCK_STATUS, 400] });
        feed(state, bytes, size);
        expect(told(state)).toEqual([
          [150, 3],
          [50, 0],
          [200, 2],
        ]);
        expect(state.events).toEqual(['1 0']);
      }
      const short = parsing(style, { 1: [BLOCK_STATUS, 400] });
      feed(short, extents([[100, 0]]));
      expect(short.asked.get(1)!.status!.knownBytes).toBe(100);
    });

    it('keep no more extents than there is room for', () => {
      const many = Array.from({ length: MAX_STATUS_EXTENTS + 5 }, (_, i): [number, number] => [1, i % 2]);
      const state = parsing(style, { 1: [BLOCK_STATUS, 10 * MAX_STATUS_EXTENTS] });
      feed(state, extents(many));
      expect(state.asked.get(1)!.status!.count).toBe(MAX_STATUS_EXTENTS);
      expect(state.asked.get(1)!.status!.knownBytes).toBe(MAX_STATUS_EXTENTS);
    });

    const LIES: Array<[string, Buffer, RegExp]> = [
      [
        'of no bytes',
        extents([
          [4, 0],
          [0, 0],
        ]),
        /no bytes/,
      ],
      ['of another context', extents([[4, 0]], ALLOCATION + 1), /context 6/],
      ['twice', join(extents([[4, 0]], ALLOCATION, 0), extents([[4, 0]])), /twice/],
      ['not at all', of(DONE, NONE), /told nothing/],
      ['in an empty list', extents([]), /BLOCK_STATUS/],
      ['in a crooked list', of(DONE, style === 'structured' ? 5 : 6, Buffer.alloc(23)), /23 bytes/],
      [
        'in the form of the other style',
        of(DONE, style === 'structured' ? 6 : 5, Buffer.alloc(24)),
        /24 bytes/,
      ],
      ['among data', data(DONE, 0, 'abcd'), /OFFSET_DATA/],
      ...(style === 'extended'
        ? ([
            ['with a wrong count', extents([[4, 0]], ALLOCATION, DONE, 2), /BLOCK_STATUS_EXT/],
            ['with a status of 64 bits', of(DONE, 6, u32(5), u32(1), u64(4), u64(2n ** 32n)), /32 bits/],
            [
              'for another offset',
              numbers([4, 0x6e8a278c], [2, 1], [2, 0], [4, 7], [4, 1], [8, 1], [8, 0]),
              /offset 1 /,
            ],
          ] as Array<[string, Buffer, RegExp]>)
        : []),
    ];
    it.each(LIES)('end the connection with extents %s', (_name, bytes, words) => {
      for (const size of [bytes.length, 1]) {
        expect(() => feed(parsing(style, { 1: [BLOCK_STATUS, 400] }), bytes, size)).toThrow(words);
      }
    });

    if (style === 'structured') {
      it('may be simple where no payload can follow, and only there', () => {
        const state = parsing(style, { 1: [WRITE, 4], 2: [FLUSH, 0], 3: [READ, 4], 4: [BLOCK_STATUS, 4] });
        feed(state, join(simple(1), simple(2, NBD_ERROR.EIO)), 3);
        expect(state.events).toEqual(['1 0', '2 5']);
        expect(() => feed(state, simple(3, NBD_ERROR.EIO))).toThrow(/simple reply to request 0/);
        expect(() => feed(parsing(style, { 4: [BLOCK_STATUS, 4] }), simple(4))).toThrow(
          /simple reply to request 7/,
        );
        const begun = parsing(style, { 1: [WRITE, 4] });
        expect(() => feed(begun, join(error(0, 5, ''), simple(1)))).toThrow(/behind chunks/);
      });
    }
  });
}

describe('a style that was not negotiated', () => {
  it.each([
    ['simple', chunk('structured', 1, DONE, NONE), /structured reply's magic, which was not negotiated/],
    ['simple', chunk('extended', 1, DONE, NONE), /extended reply's magic, which was not negotiated/],
    ['structured', chunk('extended', 1, DONE, NONE), /extended reply's magic, which was not negotiated/],
    ['extended', join(simple(1), Buffer.alloc(16)), /only extended ones/],
    ['extended', join(chunk('structured', 1, DONE, NONE), Buffer.alloc(12)), /structured reply's magic/],
    ['simple', Buffer.alloc(16), /0x00000000/],
  ] as Array<[ReplyStyle, Buffer, RegExp]>)('ends the connection (%s)', (style, bytes, words) => {
    for (const size of [bytes.length, 1]) {
      expect(() => feed(parsing(style, { 1: [FLUSH, 0] }), bytes, size)).toThrow(words);
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
