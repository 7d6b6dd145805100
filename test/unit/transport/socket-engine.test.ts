// Both engines over real sockets: the one that receives into the handler's memory, and the plain one for streams that
// have no handle of their own. The same events in the same order from both.
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import {
  createHandleEngine,
  createSocketEngine,
  createStreamEngine,
  type SocketEngine,
  type SocketHandler,
} from '../../../src/transport/socket-engine.ts';
import { waitUntil } from '../../support/wait-until.ts';

/** Receives into small pieces of one buffer, and keeps what came. */
class Collector implements SocketHandler {
  readonly pieces: Buffer[] = [];
  readonly events: string[] = [];
  readonly regionBytes: number;
  pauseAfter = Number.POSITIVE_INFINITY;
  sentCount = 0;
  closedWith: Error | undefined;
  #region: Buffer;

  constructor(regionBytes: number) {
    this.regionBytes = regionBytes;
    this.#region = Buffer.alloc(regionBytes);
  }

  get bytes(): Buffer {
    return Buffer.concat(this.pieces);
  }

  receiveBuffer(): Buffer {
    this.#region = Buffer.alloc(this.regionBytes);
    return this.#region;
  }

  received(count: number): boolean {
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThanOrEqual(this.regionBytes);
    this.pieces.push(this.#region.subarray(0, count));
    return this.bytes.length < this.pauseAfter;
  }

  ended(): void {
    this.events.push('ended');
  }

  sent(): void {
    this.sentCount += 1;
  }

  closed(error: Error | undefined): void {
    this.closedWith = error;
    this.events.push('closed');
  }
}

const servers: Server[] = [];
const clients: Socket[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
});

interface Pair {
  readonly engine: SocketEngine;
  readonly client: Socket;
  readonly server: Server;
}

async function pair(kind: string, handler: Collector): Promise<Pair> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const { port } = server.address() as { port: number };
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => {});
  clients.push(client);
  const socket = await accepted;
  return {
    engine:
      kind === 'plain' ? createStreamEngine(socket, handler) : createSocketEngine(socket, handler, 30_000),
    client,
    server,
  };
}

describe.each(['onread', 'plain'])('the %s engine', (kind) => {
  it('delivers every byte in order, into the memory it was given', async () => {
    const handler = new Collector(1000);
    const { engine, client } = await pair(kind, handler);
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 251));
    client.end(bytes);
    await waitUntil(() => handler.events.includes('ended'));
    expect(handler.bytes.equals(bytes)).toBe(true);
    expect(engine.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    engine.end();
    await waitUntil(() => handler.events.includes('closed'));
    expect(handler.events).toEqual(['ended', 'closed']);
    expect(handler.closedWith).toBeUndefined();
  });

  /** One that was told to stop after 2000 bytes, of more that its client sends, and has. */
  async function stoppedPair() {
    const handler = new Collector(500);
    const { engine, client } = await pair(kind, handler);
    handler.pauseAfter = 2000;
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
    client.end(bytes);
    await waitUntil(() => handler.bytes.length >= 2000);
    await new Promise((resolve) => setImmediate(resolve));
    return { handler, engine, client, bytes };
  }

  it('stops when told to, and goes on where it stopped', async () => {
    const { handler, engine, client, bytes } = await stoppedPair();
    expect(handler.bytes.length).toBe(2000);
    handler.pauseAfter = 150_000;
    engine.resume();
    await waitUntil(() => handler.bytes.length >= 150_000);
    handler.pauseAfter = Number.POSITIVE_INFINITY;
    engine.resume();
    await waitUntil(() => handler.events.includes('ended'));
    expect(handler.bytes.equals(bytes)).toBe(true);
    engine.destroy();
    await waitUntil(() => handler.events.includes('closed'));
    client.destroy();
  });

  it('sends chunks in order and tells of each, also after the peer closed its side', async () => {
    const handler = new Collector(500);
    const { engine, client } = await pair(kind, handler);
    const got: Buffer[] = [];
    client.on('data', (chunk: Buffer) => got.push(chunk));
    client.end();
    await waitUntil(() => handler.events.includes('ended'));
    engine.send([Buffer.from('one')]);
    engine.send([Buffer.from(' two'), Buffer.from(' three'), Buffer.alloc(1_000_000, 'x')]);
    await waitUntil(() => handler.sentCount === 4);
    engine.end();
    await waitUntil(() => handler.events.includes('closed'));
    await waitUntil(() => Buffer.concat(got).length === 1_000_013);
    expect(Buffer.concat(got).toString('latin1', 0, 13)).toBe('one two three');
  });

  it('reports a reset once, after everything else', async () => {
    const handler = new Collector(500);
    const { engine, client } = await pair(kind, handler);
    await new Promise<void>((resolve) => client.write('hello', () => resolve()));
    await waitUntil(() => handler.bytes.length === 5);
    client.resetAndDestroy();
    await waitUntil(() => handler.events.includes('closed'));
    expect(handler.events).toEqual(['closed']);
    expect(handler.closedWith).toBeInstanceOf(Error);
    engine.send([Buffer.from('nobody')]);
    engine.end();
    engine.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    expect(handler.sentCount).toBe(0);
    expect(handler.events).toEqual(['closed']);
  });

  it('gives the socket away where it stopped, without a byte lost', async () => {
    const { handler, engine, client, bytes } = await stoppedPair();
    const given = engine.giveAway()!;
    expect(given.kind).toBe(kind === 'plain' ? 'stream' : 'handle');
    const rest = new Collector(500);
    const next =
      given.kind === 'handle'
        ? createHandleEngine(given.handle, rest, 'before')
        : createStreamEngine(given.stream, rest, 'before');
    await waitUntil(() => rest.events.includes('ended'));
    expect(Buffer.concat([handler.bytes, rest.bytes]).equals(bytes)).toBe(true);
    expect(next.peer).toBe('before');
    next.send([Buffer.from('back')]);
    const [answer] = (await once(client, 'data')) as [Buffer];
    expect(answer.toString()).toBe('back');
    next.destroy();
    await waitUntil(() => rest.events.includes('closed'));
    expect(handler.events).toEqual([]);
    client.destroy();
  });

  it('has nothing to give away of a socket that is closed', async () => {
    const handler = new Collector(500);
    const { engine, client } = await pair(kind, handler);
    engine.destroy();
    expect(engine.giveAway()).toBeUndefined();
    client.destroy();
  });

  it('gives its place in the count of the server back', async () => {
    const handler = new Collector(500);
    const { engine, client, server } = await pair(kind, handler);
    engine.destroy();
    await waitUntil(() => handler.events.includes('closed'));
    client.destroy();
    const closed = new Promise((resolve) => server.close(resolve));
    servers.length = 0;
    await closed;
  });
});
