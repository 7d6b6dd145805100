import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { deferred } from '../../../src/base/lifecycle.ts';
import type { ByteConsumer } from '../../../src/transport/receive-buffer.ts';
import { SocketLink } from '../../../src/transport/socket-link.ts';

let server: Server;
let near: Socket;
let far: Socket;

beforeEach(async () => {
  server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  near = connect((server.address() as AddressInfo).port, '127.0.0.1');
  far = await accepted;
});

afterEach(() => {
  near.destroy();
  far.destroy();
  server.close();
});

/** Takes single bytes; pauses and resumes as the test says. */
class Bytes implements ByteConsumer {
  readonly wantBytes = 1;
  readonly seen: number[] = [];
  onByte: (value: number) => boolean = () => true;

  consume(bytes: Buffer): number {
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

describe('SocketLink', () => {
  test('sends parts in order and tells when they may be reused', async () => {
    const link = new SocketLink(near, new Bytes(), { closed: () => {} });
    const arrived = deferred<string>();
    let text = '';
    far.on('data', (chunk) => {
      text += chunk.toString();
      if (text.length === 9) arrived.resolve(text);
    });
    await new Promise<void>((resolve) => link.send([Buffer.from('abc'), Buffer.from('def')], resolve));
    link.send([Buffer.from('ghi')]);
    expect(await arrived.promise).toBe('abcdefghi');
  });

  test('a paused consumer gets nothing more, and everything after it resumed', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    const paused = deferred<void>();
    const link = new SocketLink(near, consumer, { closed: (reason) => closed.resolve(reason) });
    consumer.onByte = (value) => {
      if (value !== 1) return true;
      link.pause();
      paused.resolve();
      return false;
    };
    far.write(Buffer.from([0, 1, 2, 3]));
    await paused.promise;
    far.write(Buffer.from([4, 5]));
    far.end();
    await new Promise((resolve) => setImmediate(resolve));
    expect(consumer.seen).toEqual([0, 1]);
    link.resume();
    expect(await closed.promise).toBeUndefined();
    expect(consumer.seen).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test('resuming from inside the consumer loses nothing', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    const link = new SocketLink(near, consumer, { closed: (reason) => closed.resolve(reason) });
    consumer.onByte = () => {
      link.pause();
      link.resume();
      return false;
    };
    far.end(Buffer.from([1, 2, 3, 4]));
    expect(await closed.promise).toBeUndefined();
    expect(consumer.seen).toEqual([1, 2, 3, 4]);
  });

  test('a consumer that throws ends the connection with its reason', async () => {
    const consumer = new Bytes();
    const closed = deferred<Error | undefined>();
    consumer.onByte = () => {
      throw new Error('bad magic');
    };
    new SocketLink(near, consumer, { closed: (reason) => closed.resolve(reason) });
    far.write('x');
    expect((await closed.promise)?.message).toBe('bad magic');
  });

  test('sending on a dead link calls back and throws nothing', async () => {
    const closed = deferred<Error | undefined>();
    const link = new SocketLink(near, new Bytes(), { closed: (reason) => closed.resolve(reason) });
    link.destroy(new Error('enough'));
    expect((await closed.promise)?.message).toBe('enough');
    await new Promise<void>((resolve) => link.send([Buffer.from('late')], resolve));
    expect(link.isClosed).toBe(true);
  });

  test('parts in flight when the peer resets are given back', async () => {
    const closed = deferred<Error | undefined>();
    const link = new SocketLink(near, new Bytes(), { closed: (reason) => closed.resolve(reason) });
    let given = 0;
    const big = Buffer.alloc(1 << 20);
    for (let i = 0; i < 64; i += 1) link.send([big], () => (given += 1));
    far.resetAndDestroy();
    expect(await closed.promise).toBeInstanceOf(Error);
    expect(given).toBe(64);
  });
});
