// Whole sessions, cut into pieces in every way: the same replies, the same effect on the disk, and no memory left.
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { MAX_REQUESTS_PER_PASS } from '../../../src/nbd/limits.ts';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { openOnFakeEngine as open } from '../../support/fake-engine.ts';
import { byteByByte, cutAt, type PlayedSession, playSession } from '../../support/play-session.ts';
import { clientFlagsBytes, infoData, optionBytes, requestBytes } from '../../support/raw-nbd-client.ts';
import { JumbleDevice, RecorderDevice, SparseDevice, settled } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES } = NBD_CMD;
const SIZE = 4 * MiB;
const HELLO = Buffer.concat([clientFlagsBytes(), optionBytes(3), optionBytes(7, infoData('disk', [1, 3]))]);

/** Plays `pieces` over a fresh disk. */
const play = (pieces: Iterable<Buffer>): Promise<PlayedSession> =>
  playSession(pieces, new SparseDevice(SIZE));

const offset = fc.oneof(fc.nat(SIZE), fc.constantFrom(0, SIZE - 512, SIZE, 2 ** 40));
const flags = fc.constantFrom(0, 0, 0, 1, 2, 4, 16);
const cookie = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const length = fc.oneof(fc.nat(2000), fc.constantFrom(0, 512, 4 * KiB, 100 * KiB));
const request = fc.oneof(
  fc.record({ type: fc.constantFrom(READ, TRIM, CACHE, WRITE_ZEROES, 7, 99), flags, cookie, offset, length }),
  fc.record({ type: fc.constant(FLUSH), flags, cookie }),
  fc
    .record({ flags, cookie, offset, length, fill: fc.nat(255) })
    .map(({ fill, length: n, ...rest }) => ({ type: WRITE, data: Buffer.alloc(n, fill), ...rest })),
);
const ending = fc.constantFrom(
  Buffer.alloc(0),
  requestBytes({ type: DISC }),
  requestBytes({ type: FLUSH, magic: 1 }),
  Buffer.from('junk that is no request, but long enough for one'),
  requestBytes({ type: WRITE, length: 0xffffffff }),
);
const session = fc
  .tuple(fc.array(request, { maxLength: 12 }), ending)
  .map(([requests, last]) => Buffer.concat([HELLO, ...requests.map(requestBytes), last]));

describe('a session in pieces', () => {
  afterEach(() => expect(sharedPool.liveBytes).toBe(0));

  it('is answered as the whole one is', async () => {
    await fc.assert(
      fc.asyncProperty(session, fc.array(fc.nat(2 * MiB), { maxLength: 12 }), async (bytes, cuts) => {
        expect(await play(cutAt(bytes, cuts))).toEqual(await play([bytes]));
      }),
      { numRuns: 150 },
    );
  });

  it('is answered byte by byte as the whole one is', async () => {
    const requests = [
      requestBytes({ type: WRITE, cookie: 1n, offset: 5, data: Buffer.alloc(700, 1) }),
      requestBytes({ type: READ, cookie: 2n, offset: 0, length: 900 }),
      requestBytes({ type: WRITE, cookie: 3n, offset: SIZE, data: Buffer.alloc(300, 1) }),
      requestBytes({ type: TRIM, cookie: 4n, length: 100 }),
      requestBytes({ type: DISC }),
    ];
    const bytes = Buffer.concat([HELLO, ...requests]);
    const whole = await play([bytes]);
    expect(whole.ended).toBe(true);
    expect(whole.calls).toEqual(['write 5+700', 'read 0+900', 'trim 0+100']);
    expect(await play(byteByByte(bytes))).toEqual(whole);
  });

  it('answers a burst that arrives at once in one send', async () => {
    const { engine, connection } = open(new SparseDevice(SIZE));
    engine.arrive(HELLO);
    engine.take();
    const before = engine.sends;
    const writes = Array.from({ length: 10 }, (_, i) =>
      requestBytes({ type: WRITE, offset: i * 4096, data: Buffer.alloc(4096, i) }),
    );
    engine.arrive(Buffer.concat(writes));
    expect(engine.sends).toBe(before + 1);
    connection.destroy();
    await settled();
  });

  it('lets others have their turn in a long burst', async () => {
    const device = new RecorderDevice(new SparseDevice(SIZE));
    const { engine, connection } = open(device);
    engine.arrive(HELLO);
    engine.take();
    const greeted = engine.output().length;
    engine.arrive(Buffer.concat(Array.from({ length: 2000 }, () => requestBytes({ type: FLUSH }))));
    expect(engine.isPaused).toBe(true);
    expect(device.calls.length).toBe(MAX_REQUESTS_PER_PASS);
    await settled();
    engine.take();
    expect(engine.isPaused).toBe(false);
    expect(device.calls.length).toBe(2000);
    expect(engine.output().length - greeted).toBe(2000 * 16);
    connection.destroy();
    await settled();
  });

  it('can hold any junk, at any point', async () => {
    const junk = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));
    await fc.assert(
      fc.asyncProperty(fc.array(request, { maxLength: 3 }), junk, async (requests, bytes) => {
        await play([HELLO, ...requests.map(requestBytes), bytes]);
        await play([clientFlagsBytes(), bytes]);
        await play([bytes]);
      }),
      { numRuns: 100 },
    );
  });
});

describe('a session on a slow device that keeps no order', () => {
  afterEach(() => expect(sharedPool.liveBytes).toBe(0));

  it('answers every request once, with what was written', async () => {
    const block = fc.record({
      index: fc.nat(30),
      blocks: fc.integer({ min: 1, max: 40 }),
      fill: fc.nat(255),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(block, { minLength: 1, maxLength: 30 }), fc.nat(), async (blocks, seed) => {
        const below = new SparseDevice(64 * MiB);
        const { engine, connection } = open(new JumbleDevice(below, seed));
        engine.arrive(HELLO);
        engine.take();
        const greeted = engine.output().length;
        blocks.forEach(({ fill, blocks: count }, i) => {
          const data = Buffer.alloc(count * KiB, fill);
          engine.arrive(requestBytes({ type: WRITE, cookie: BigInt(i), offset: i * 64 * KiB, data }));
        });
        const replies = () => (engine.output().length - greeted) / 16;
        await waitUntil(
          () => {
            engine.take();
            return replies() === blocks.length;
          },
          { intervalMs: 0, what: 'all writes to be answered' },
        );
        blocks.forEach(({ fill, blocks: count }, i) => {
          const target = Buffer.alloc(count * KiB);
          below.bytes.read(i * 64 * KiB, target);
          expect(target.equals(Buffer.alloc(count * KiB, fill)), `write ${i}`).toBe(true);
        });
        const cookies = new Set<number>();
        for (let i = 0; i < blocks.length; i += 1)
          cookies.add(engine.output().readUInt32BE(greeted + i * 16 + 12));
        expect(cookies.size).toBe(blocks.length);
        connection.destroy();
        await settled();
      }),
      { numRuns: 25 },
    );
  });

  it('gives its memory back when the client dies with requests in flight', async () => {
    const { engine, connection } = open(new JumbleDevice(new SparseDevice(64 * MiB), 1));
    engine.arrive(HELLO);
    for (let i = 0; i < 50; i += 1) {
      engine.arrive(
        requestBytes({
          type: i % 2 ? WRITE : READ,
          length: 40 * KiB,
          ...(i % 2 ? { data: Buffer.alloc(40 * KiB) } : {}),
        }),
      );
    }
    expect(connection.inFlight).toBe(50);
    connection.destroy();
    await waitUntil(() => connection.inFlight === 0);
    expect(connection.state).toBe('dead');
  });
});
