// A link over real sockets, however it came to them: accepted, dialled, or as a stream that has no handle to receive
// from; and the units that come out of it, however the bytes are cut.
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, Socket } from 'node:net';
import { Duplex } from 'node:stream';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { deferred } from '../../../src/base/lifecycle.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { MIN_RECEIVE_BYTES } from '../../../src/transport/receive-buffer.ts';
import { type ByteConsumer, SocketLink, type SocketLinkEvents } from '../../../src/transport/socket-link.ts';
import { waitUntil } from '../../support/wait-until.ts';

type Kind = 'accepted' | 'dialled' | 'late';

let server: Server;
let far: Socket;
let link: SocketLink | undefined;
let liveBefore = 0;

beforeEach(async () => {
  liveBefore = sharedPool.liveBytes;
  server = createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});

afterEach(async () => {
  link?.destroy();
  far.destroy();
  server.close();
  await waitUntil(() => sharedPool.liveBytes === liveBefore);
});

/** A link over a fresh connection, whose other end is `far`. */
async function open(kind: Kind, consumer: ByteConsumer, events: SocketLinkEvents): Promise<SocketLink> {
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const { port } = server.address() as AddressInfo;
  const dialled = connect(port, '127.0.0.1');
  const linked = new Promise<SocketLink>((resolve) => {
    if (kind === 'dialled') dialled.once('connect', () => resolve(new SocketLink(dialled, consumer, events)));
  });
  if (kind === 'accepted') {
    far = dialled;
    link = new SocketLink(await accepted, consumer, events);
  } else {
    far = (await accepted).resume();
    // One that has connected in an earlier turn has begun to read.
    if (kind === 'late') await waitUntil(() => !dialled.connecting);
    link = kind === 'dialled' ? await linked : new SocketLink(dialled, consumer, events);
  }
  return link;
}

/** Takes single bytes; pauses and resumes as the test says. */
class Bytes implements ByteConsumer {
  readonly wantBytes = 1;
  readonly seen: number[] = [];
  /** The memory that the bytes of each call lay in. */
  readonly memories = new Set<ArrayBufferLike>();
  onByte: (value: number) => boolean = () => true;

  consume(bytes: Buffer): number {
    this.memories.add(bytes.buffer);
    let at = 0;
    while (at < bytes.length) {
      const value = bytes[at]!;
      at += 1;
      this.seen.push(value);
      if (!this.onByte(value)) break;
    }
    return at;
  }
}

/** Reads units of one length word (u32) and that many bytes; stops after each unit when told to. */
class Units implements ByteConsumer {
  readonly seen: string[] = [];
  afterUnit: (() => boolean) | undefined;
  wantBytes = 4;

  consume(bytes: Buffer): number {
    let at = 0;
    this.wantBytes = 4;
    while (bytes.length - at >= 4) {
      const unit = 4 + bytes.readUInt32LE(at);
      if (bytes.length - at < unit) {
        this.wantBytes = unit;
        break;
      }
      this.seen.push(bytes.toString('latin1', at + 4, at + unit));
      at += unit;
      if (this.afterUnit?.() === false) break;
    }
    return at;
  }
}

function encode(units: readonly string[]): Buffer {
  return Buffer.concat(
    units.map((unit) => {
      const head = Buffer.alloc(4);
      head.writeUInt32LE(unit.length);
      return Buffer.concat([head, Buffer.from(unit, 'latin1')]);
    }),
  );
}

describe.each<Kind>(['accepted', 'dialled', 'late'])('SocketLink over a socket %s', (kind) => {
  test('sends parts in order and tells when they may be reused', async () => {
    const drained = vi.fn();
    const near = await open(kind, new Bytes(), { closed: () => {}, drained });
    const arrived = deferred<string>();
    let text = '';
    far.on('data', (chunk) => {
      text += chunk.toString();
      if (text.length === 9) arrived.resolve(text);
    });
    await new Promise<void>((resolve) => near.send([Buffer.from('abc'), Buffer.from('def')], resolve));
    near.send([Buffer.from('ghi')]);
    expect(await arrived.promise).toBe('abcdefghi');
    await waitUntil(() => drained.mock.calls.length === 2);
    expect(near.unsentBytes).toBe(0);
  });

  test('what is corked leaves together', async () => {
    const near = await open(kind, new Bytes(), { closed: () => {} });
    const pieces: string[] = [];
    far.on('data', (chunk) => pieces.push(chunk.toString()));
    near.cork();
    near.send([Buffer.from('ab')]);
    near.send([Buffer.from('cd')]);
    expect(near.unsentBytes).toBe(4);
    near.uncork();
    await waitUntil(() => pieces.length > 0);
    expect(pieces).toEqual(['abcd']);
  });

  test('a paused consumer gets nothing more, and everything after it resumed', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    const paused = deferred<void>();
    const near = await open(kind, consumer, { closed: (reason) => closed.resolve(reason) });
    consumer.onByte = (value) => {
      if (value !== 1) return true;
      near.pause();
      paused.resolve();
      return false;
    };
    far.write(Buffer.from([0, 1, 2, 3]));
    await paused.promise;
    far.write(Buffer.from([4, 5]));
    far.end();
    await new Promise((resolve) => setImmediate(resolve));
    expect(consumer.seen).toEqual([0, 1]);
    near.resume();
    expect(await closed.promise).toBeUndefined();
    expect(consumer.seen).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test('one paused between two passes gets nothing either', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    const near = await open(kind, consumer, { closed: (reason) => closed.resolve(reason) });
    near.pause();
    far.end(Buffer.from([1, 2, 3]));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(consumer.seen).toEqual([]);
    near.resume();
    expect(await closed.promise).toBeUndefined();
    expect(consumer.seen).toEqual([1, 2, 3]);
  });

  test('resuming from inside the consumer loses nothing', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    const near = await open(kind, consumer, { closed: (reason) => closed.resolve(reason) });
    consumer.onByte = () => {
      near.pause();
      near.resume();
      return false;
    };
    far.end(Buffer.from([1, 2, 3, 4]));
    expect(await closed.promise).toBeUndefined();
    expect(consumer.seen).toEqual([1, 2, 3, 4]);
  });

  test('a consumer that throws ends the connection with its reason, and is not asked again', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    consumer.onByte = () => {
      throw new Error('bad magic');
    };
    await open(kind, consumer, { closed: (reason) => closed.resolve(reason) });
    far.write(Buffer.alloc(MiB, 'x'));
    expect((await closed.promise)?.message).toBe('bad magic');
    expect(consumer.seen).toHaveLength(1);
  });

  test('sending on a dead link calls back and throws nothing', async () => {
    const closed = deferred<Error | undefined>();
    const near = await open(kind, new Bytes(), { closed: (reason) => closed.resolve(reason) });
    near.destroy(new Error('enough'));
    await new Promise<void>((resolve) => near.send([Buffer.from('early')], resolve));
    expect((await closed.promise)?.message).toBe('enough');
    await new Promise<void>((resolve) => near.send([Buffer.from('late')], resolve));
    expect(near.isClosed).toBe(true);
  });

  test('parts in flight when the peer resets are given back', async () => {
    const closed = deferred<Error | undefined>();
    const near = await open(kind, new Bytes(), { closed: (reason) => closed.resolve(reason) });
    let given = 0;
    const big = Buffer.alloc(1 << 20);
    for (let i = 0; i < 64; i += 1) near.send([big, big], () => (given += 1));
    far.resetAndDestroy();
    expect(await closed.promise).toBeInstanceOf(Error);
    expect(given).toBe(64);
  });

  test('bytes are read where they landed: in memory of the pool, the same again and again', async () => {
    const consumer = new Bytes();
    await open(kind, consumer, { closed: () => {} });
    for (let i = 1; i <= 20; i += 1) {
      far.write(Buffer.alloc(1000, i));
      await waitUntil(() => consumer.seen.length === 1000 * i);
    }
    expect(consumer.memories.size).toBe(1);
    expect(sharedPool.liveBytes - liveBefore).toBe(MIN_RECEIVE_BYTES);
  });

  test('units of any size come out whole and in order, also when the consumer stops now and then', async () => {
    const consumer = new Units();
    const near = await open(kind, consumer, { closed: () => {} });
    let stops = 0;
    consumer.afterUnit = () => {
      stops += 1;
      if (stops % 7 !== 0) return true;
      near.pause();
      if (stops % 2 === 0) setImmediate(() => near.resume());
      else queueMicrotask(() => near.resume());
      return false;
    };
    const units = Array.from({ length: 60 }, (_, i) => String.fromCharCode(65 + (i % 26)).repeat(i * i * 97));
    const bytes = encode(units);
    for (let at = 0; at < bytes.length; at += 100 * KiB) far.write(bytes.subarray(at, at + 100 * KiB));
    await waitUntil(() => consumer.seen.length === units.length);
    expect(consumer.seen).toEqual(units);
  });
});

describe('SocketLink', () => {
  test('units come out the same however the bytes are cut, and the memory goes back', async () => {
    far = new Socket();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: 'grapheme-ascii', maxLength: 300 }), { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 50 }),
        async (units, cuts) => {
          const before = sharedPool.liveBytes;
          const closed = deferred<Error | undefined>();
          const stream = new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() });
          const consumer = new Units();
          const near = new SocketLink(asSocket(stream), consumer, {
            closed: (error) => closed.resolve(error),
          });
          const bytes = encode(units);
          for (let at = 0, i = 0; at < bytes.length; i += 1) {
            const end = Math.min(bytes.length, at + cuts[i % cuts.length]!);
            stream.push(bytes.subarray(at, end));
            at = end;
          }
          stream.push(null);
          expect(await closed.promise).toBeUndefined();
          expect(near.isClosed).toBe(true);
          expect(consumer.seen).toEqual(units);
          expect(sharedPool.liveBytes).toBe(before);
        },
      ),
      { numRuns: 50 },
    );
  });
});

/** A stream as the link knows sockets. */
function asSocket(stream: Duplex): Socket {
  return Object.assign(stream, { setNoDelay: () => {}, setKeepAlive: () => {} }) as unknown as Socket;
}
