// What stands between a stream without a handle and one that has only a handle: bytes both ways, and either side's end.
import { once } from 'node:events';
import { connect, createServer, type Server, Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { loadNativeCalls } from '../../../src/base/native-calls.ts';
import { relay } from '../../../src/transport/relay.ts';
import { waitUntil } from '../../support/wait-until.ts';

const native = loadNativeCalls()!;
const open: Array<Socket | Server> = [];
afterEach(() => {
  for (const one of open.splice(0)) 'destroy' in one ? one.destroy() : one.close();
});

/** A client, and the far end of the relay behind the server's side of its connection. */
async function build(): Promise<{ client: Socket; stream: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true });
  open.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const { port } = server.address() as { port: number };
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const [stream] = await accepted;
  stream.on('error', () => {});
  const options = { handle: relay(stream, native), allowHalfOpen: true };
  const far = new Socket(options as ConstructorParameters<typeof Socket>[0]);
  open.push(client, stream, far);
  return { client, stream, far };
}

/** Everything up to the other side's end; our own stays open. */
async function received(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

describe.runIf(native)('a relay', () => {
  it('carries bytes both ways, and each side may end first', async () => {
    const { client, stream, far } = await build();
    const [there, back] = [Buffer.alloc(3_000_000, 1), Buffer.alloc(2_000_000, 2)];
    client.end(there);
    expect((await received(far)).equals(there)).toBe(true);
    far.end(back);
    expect((await received(client)).equals(back)).toBe(true);
    await waitUntil(() => stream.destroyed, { what: 'the relay to end' });
  });

  it('ends the stream when the far side is gone with bytes unread', async () => {
    const { client, far } = await build();
    client.write(Buffer.alloc(100_000));
    await once(far, 'readable');
    far.pause();
    far.destroy();
    const from = performance.now();
    expect((await received(client)).length).toBe(0);
    // Not only when patience with the client is over.
    expect(performance.now() - from).toBeLessThan(2000);
  });

  it('ends the far side when the stream is gone', async () => {
    const { stream, far } = await build();
    stream.destroy();
    expect((await received(far)).length).toBe(0);
  });
});
