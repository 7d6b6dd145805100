// What a client may say, as fast-check sees it: mostly what the protocol's grammar allows, with lengths, flags, magics
// and offsets that are wrong in the ways that hurt. Raw bytes and damaged sessions too.
import fc from 'fast-check';
import { KiB, MiB } from '../../src/base/limits.ts';
import { clientFlagsBytes, infoData, optionBytes, requestBytes } from '../support/raw-nbd-client.ts';
import { DISK_BYTES, EXPORT_NAMES } from './arena.ts';

const U32_MAX = 2 ** 32 - 1;
const U64_MAX = 2n ** 64n - 1n;

/** Lengths where limits lie, and around them. */
const hurtfulLength = fc.constantFrom(
  ...[0, 1, 27, 28, 29, 255, 256, 4095, 4096, 4097, 16 * KiB, 16 * KiB + 1, 64 * KiB, MiB, MiB + 1],
  ...[32 * MiB, 32 * MiB + 1, 64 * MiB, 64 * MiB + 1, 256 * MiB, 256 * MiB + 1],
  ...[2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, U32_MAX - 511, U32_MAX - 1, U32_MAX],
);

/** Undefined most of the time: the truth is told. */
const seldom = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 60, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: value });

const junk = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((bytes) => Buffer.from(bytes));

const exportName = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...EXPORT_NAMES, '') },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      'nope',
      '\0',
      'disk\0',
      '\x1b[2J',
      'é'.repeat(127),
      'x'.repeat(4096),
      'x'.repeat(4097),
    ),
  },
  { weight: 1, arbitrary: junk(300) },
);

const infoRequests = fc.oneof(
  { weight: 8, arbitrary: fc.array(fc.constantFrom(0, 1, 2, 3, 4, 0xffff), { maxLength: 6 }) },
  { weight: 1, arbitrary: fc.constant(new Array<number>(5000).fill(3)) },
);

const infoOption = fc
  .record({
    type: fc.constantFrom(6, 6, 7),
    name: exportName,
    wanted: infoRequests,
    nameLength: seldom(hurtfulLength),
    length: seldom(hurtfulLength),
  })
  .map(({ type, name, wanted, nameLength, length }) => {
    const data = infoData(name, wanted, nameLength);
    return optionBytes(type, data, length ?? data.length);
  });

const QUERIES = [
  'base:allocation',
  'base:',
  'base:nope',
  'repagent:dirty',
  'repagent:',
  'x',
  '',
  ':',
  'qemu:dirty-bitmap:b',
];

const metaOption = fc
  .record({
    type: fc.constantFrom(9, 10, 10),
    name: exportName,
    queries: fc.array(fc.oneof(fc.constantFrom(...QUERIES), fc.constant('y'.repeat(4097))), { maxLength: 4 }),
    count: seldom(hurtfulLength),
    nameLength: seldom(hurtfulLength),
    queryLength: seldom(hurtfulLength),
    length: seldom(hurtfulLength),
  })
  .map(({ type, name, queries, count, nameLength, queryLength, length }) => {
    const text = Buffer.from(name as string);
    const words = queries.flatMap((query, i) => [
      u32(i === 0 ? (queryLength ?? query.length) : query.length),
      Buffer.from(query),
    ]);
    const data = Buffer.concat([
      u32(nameLength ?? text.length),
      text,
      u32(count ?? queries.length),
      ...words,
    ]);
    return optionBytes(type, data, length ?? data.length);
  });

const emptyOption = fc
  .record({
    type: fc.constantFrom(3, 5, 8, 8, 8, 11, 11),
    data: seldom(junk(30)),
    length: seldom(hurtfulLength),
  })
  .map(({ type, data, length }) => optionBytes(type, data, length ?? data?.length ?? 0));

const oddOption = fc.oneof(
  fc
    .record({
      type: fc.oneof(fc.nat(15), fc.constantFrom(99, 2 ** 31, U32_MAX)),
      data: junk(300),
      length: seldom(hurtfulLength),
    })
    .map(({ type, data, length }) => optionBytes(type, data, length ?? data.length)),
  fc
    .tuple(fc.constantFrom(3, 6, 99), fc.constantFrom(16 * KiB, 16 * KiB + 1, MiB, MiB + 1))
    .map(([type, size]) => optionBytes(type, Buffer.alloc(size))),
  junk(40),
);

/** Options that leave the handshake going, mostly. */
const option = fc.oneof(
  { weight: 12, arbitrary: infoOption.map(withoutGo) },
  { weight: 8, arbitrary: emptyOption },
  { weight: 8, arbitrary: metaOption },
  { weight: 1, arbitrary: oddOption },
);

/** How the handshake ends, or doesn't. */
const lastOption = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.constantFrom(...EXPORT_NAMES, '').map((name) => optionBytes(7, infoData(name, [3]))),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom(...EXPORT_NAMES, 'nope').map((name) => optionBytes(1, Buffer.from(name))),
  },
  { weight: 1, arbitrary: infoOption },
  { weight: 1, arbitrary: fc.constantFrom(optionBytes(2), optionBytes(2, Buffer.alloc(9)), Buffer.alloc(0)) },
  { weight: 1, arbitrary: fc.constant(Buffer.concat(new Array<Buffer>(300).fill(optionBytes(3)))) },
);

const clientFlags = fc.oneof(
  { weight: 20, arbitrary: fc.constant(3) },
  { weight: 2, arbitrary: fc.constantFrom(0, 1, 2) },
  { weight: 1, arbitrary: fc.constantFrom(4, 2 ** 31, U32_MAX) },
);

const offset = fc.oneof(
  // A narrow place, where requests meet each other.
  { weight: 12, arbitrary: fc.nat(7).map((sector) => BigInt(sector * 512)) },
  { weight: 3, arbitrary: fc.nat(DISK_BYTES / 512).map((sector) => BigInt(sector * 512)) },
  { weight: 3, arbitrary: fc.bigInt({ min: 0n, max: BigInt(DISK_BYTES) }) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      ...[
        BigInt(DISK_BYTES) - 512n,
        BigInt(DISK_BYTES),
        BigInt(DISK_BYTES) + 1n,
        2n ** 32n,
        2n ** 53n - 1n,
        2n ** 53n,
      ],
      ...[2n ** 63n - 1n, 2n ** 63n, U64_MAX - 511n, U64_MAX],
    ),
  },
);
const requestFlags = fc.oneof(
  { weight: 10, arbitrary: fc.constantFrom(0, 0, 0, 1) },
  { weight: 2, arbitrary: fc.constantFrom(2, 3, 4, 5, 8, 9, 16, 17, 32, 33) },
  { weight: 1, arbitrary: fc.nat(0xffff) },
);
const cookie = fc.oneof(fc.bigInt({ min: 0n, max: U64_MAX }), fc.constantFrom(0n, 1n, U64_MAX));
const moderateLength = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 1, max: 8 }).map((sectors) => sectors * 512) },
  { weight: 2, arbitrary: fc.nat(64).map((sectors) => sectors * 512) },
  { weight: 2, arbitrary: fc.nat(20_000) },
  { weight: 1, arbitrary: fc.constantFrom(128 * KiB, 512 * KiB, MiB, MiB + 1) },
);
const magic = seldom(fc.constantFrom(0x25609514, 0x21e41c71, 0)).map((wrong) => wrong ?? 0x25609513);

const dataless = fc
  .record({
    type: fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(0, 0, 0, 4, 5, 6, 7) },
      { weight: 1, arbitrary: fc.nat(0xffff) },
    ),
    flags: requestFlags,
    cookie,
    offset,
    length: fc.oneof({ weight: 9, arbitrary: moderateLength }, { weight: 1, arbitrary: hurtfulLength }),
    magic,
  })
  // WRITE is made below, and DISC ends a session on purpose only.
  .map(({ type, ...rest }) => requestBytes({ type: type === 1 || type === 2 ? 0 : type, ...rest }));

const flush = fc
  .record({
    type: fc.constant(3),
    flags: requestFlags,
    cookie,
    offset: seldom(offset),
    length: seldom(moderateLength),
  })
  .map(({ offset: at, length, ...rest }) => requestBytes({ ...rest, offset: at ?? 0n, length: length ?? 0 }));

const write = fc
  .record({
    flags: requestFlags,
    cookie,
    offset,
    length: moderateLength,
    fill: fc.nat(255),
    told: seldom(hurtfulLength),
    magic,
  })
  .map(({ fill, length, told, ...rest }) =>
    requestBytes({ type: 1, ...rest, data: Buffer.alloc(length, fill), length: told ?? length }),
  );

const request = fc.oneof(
  { weight: 5, arbitrary: dataless },
  { weight: 4, arbitrary: write },
  { weight: 1, arbitrary: flush },
);

const ending = fc.oneof(
  { weight: 5, arbitrary: fc.constant(Buffer.alloc(0)) },
  { weight: 2, arbitrary: fc.constant(requestBytes({ type: 2 })) },
  { weight: 1, arbitrary: junk(64) },
);

/** What is agreed on, right before the end of the handshake, about the form of replies. */
const STATUS = [
  optionBytes(
    10,
    Buffer.concat([u32(4), Buffer.from('disk'), u32(1), u32(15), Buffer.from('base:allocation')]),
  ),
];
const GO_DISK = optionBytes(7, infoData('disk'));
const AGREED: ReadonlyArray<{ extended: boolean; options: readonly Buffer[]; go?: Buffer }> = [
  { extended: false, options: [] },
  { extended: false, options: [] },
  { extended: false, options: [optionBytes(8)] },
  { extended: false, options: [optionBytes(8), ...STATUS], go: GO_DISK },
  { extended: true, options: [optionBytes(11)] },
  { extended: true, options: [optionBytes(11), ...STATUS], go: GO_DISK },
];

/** Whole sessions, in their parts. */
const parts = fc
  .record({
    flags: clientFlags,
    options: fc.array(option, { maxLength: 4 }),
    agreed: fc.constantFrom(...AGREED),
    last: lastOption,
    requests: fc.array(request, { maxLength: 16, size: 'max' }),
    end: ending,
  })
  .map(({ flags, options, agreed, last, requests, end }) => {
    const asked = agreed.extended ? requests.map(asExtended) : requests;
    return [clientFlagsBytes(flags), ...options, ...agreed.options, agreed.go ?? last, ...asked, end];
  });

/** Sessions whose requests can be told apart by their cookies. */
export const distinctSession: fc.Arbitrary<Buffer> = parts.map(([hello, ...all]) =>
  Buffer.concat([hello!, ...all.map(stamped)]),
);

/** The bytes with a cookie of their own, when they are a request. */
function stamped(bytes: Buffer, index: number): Buffer {
  if (bytes.length < 28 || bytes.toString('latin1', 0, 8) === 'IHAVEOPT') return bytes;
  const copy = Buffer.from(bytes);
  copy.writeUInt32BE(index, 12);
  return copy;
}

export const grammarSession: fc.Arbitrary<Buffer> = parts.map((all) => Buffer.concat(all));

/** Sessions of which parts were left out, doubled, moved, or damaged; and bytes of no sense at all behind a good start. */
export const damagedSession: fc.Arbitrary<Buffer> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(parts, fc.array(fc.tuple(fc.nat(), fc.nat(255), fc.nat(3)), { minLength: 1, maxLength: 6 }))
      .map(([all, damages]) => damages.reduce(damage, Buffer.concat(all))),
  },
  { weight: 2, arbitrary: parts.chain((all) => fc.shuffledSubarray(all)).map((all) => Buffer.concat(all)) },
  {
    weight: 1,
    arbitrary: fc.tuple(fc.constantFrom(...STARTS()), junk(2000)).map((all) => Buffer.concat(all)),
  },
);

function STARTS(): Buffer[] {
  const hello = clientFlagsBytes();
  const go = optionBytes(7, infoData('disk'));
  return [
    Buffer.alloc(0),
    hello,
    Buffer.concat([hello, Buffer.from('IHAVEOPT')]),
    Buffer.concat([hello, go]),
  ];
}

function damage(bytes: Buffer, [at, value, kind]: readonly [number, number, number]): Buffer {
  const copy = Buffer.from(bytes);
  if (copy.length === 0) return copy;
  const where = at % copy.length;
  if (kind === 0) copy[where] = value;
  if (kind === 1) return Buffer.concat([copy.subarray(0, where), copy.subarray(where + 1 + (value % 8))]);
  if (kind === 2)
    return Buffer.concat([copy.subarray(0, where), Buffer.alloc(value % 16, value), copy.subarray(where)]);
  if (kind === 3) copy.fill(value, where, Math.min(copy.length, where + 8));
  return copy;
}

/** INFO instead of GO. */
function withoutGo(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt32BE(6, 8);
  return copy;
}

/** The same request with an extended header. */
function asExtended(bytes: Buffer): Buffer {
  const head = Buffer.alloc(32);
  bytes.copy(head, 0, 0, 24);
  head.writeUInt32BE(0x21e41c71, 0);
  head.writeBigUInt64BE(BigInt(bytes.readUInt32BE(24)), 24);
  return Buffer.concat([head, bytes.subarray(28)]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
