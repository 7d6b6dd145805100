// The end of an NBD device: what was begun is finished, made durable, and the server is told.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { NBD_CMD, NBD_ERROR, NBD_FLAG_SEND_WRITE_ZEROES } from '../../../src/nbdwire/constants.ts';
import { pattern } from '../../support/disk-model.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { ALL_FLAGS, type FakeRequest } from './nbd-fake-server.ts';
import { open, rejection, startServer } from './nbd-harness.ts';

describe('close', () => {
  it('waits for what is in flight, flushes what was not, and says goodbye', async () => {
    const server = await startServer();
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.type === NBD_CMD.WRITE) held.push(request);
      return request.type === NBD_CMD.WRITE;
    };
    const { device } = await open(server.uri);
    const written = device.write(0, pattern(512, 1), false);
    await server.arrived(1);
    let closed = false;
    const closing = device.close().then(() => {
      closed = true;
    });
    expect(() => device.read(0, Buffer.alloc(512))).toThrow(BlockError);
    expect(() => device.read(0, Buffer.alloc(512))).toThrow('closed');
    await new Promise((resolve) => setImmediate(resolve));
    expect([closed, server.requests.length]).toEqual([false, 1]);
    server.serve(held[0]!);
    await Promise.all([written, closing]);
    expect(server.log).toEqual(['WRITE 0..512', 'FLUSH 0..0', 'DISC 0..0']);
    expect(device.linkState).toBe('closed');
    expect(server.durable.subarray(0, 512).equals(pattern(512, 1))).toBe(true);
    await device.close();
    await waitUntil(() => server.openConnections === 0, { what: 'the connection to end' });
  });

  it('waits for calls of several requests to make all of theirs', async () => {
    const server = await startServer({ flags: ALL_FLAGS - NBD_FLAG_SEND_WRITE_ZEROES, sizeBytes: 16 << 20 });
    server.cached.fill(1);
    const { device } = await open(server.uri, { closeTimeoutMs: 20_000 });
    const trimmed = device.trim(0, 16 << 20, false);
    await Promise.all([device.close(), trimmed]);
    expect(server.durable.every((byte) => byte === 0)).toBe(true);
  });

  it('leaves out the flush when everything is durable', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.write(0, pattern(512, 1), true);
    await device.close();
    expect(server.log).toEqual(['WRITE+1 0..512', 'DISC 0..0']);
  });

  it('does not wait for ever; what is unanswered then fails with ESHUTDOWN', async () => {
    const server = await startServer();
    server.intercept = () => true;
    const { device } = await open(server.uri, { closeTimeoutMs: 50 });
    const read = rejection(device.read(0, Buffer.alloc(512)));
    await server.arrived(1);
    expect((await rejection(device.close())).message).toContain('unanswered for 50 ms');
    expect((await read).code).toBe('ESHUTDOWN');
    expect(device.linkState).toBe('closed');
  });

  it('fails when the last flush does, and is closed all the same', async () => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.type === NBD_CMD.FLUSH) request.reply(NBD_ERROR.ENOSPC);
      return request.type === NBD_CMD.FLUSH;
    };
    const { device } = await open(server.uri);
    await device.write(0, pattern(512, 1), false);
    expect((await rejection(device.close())).code).toBe('ENOSPC');
    expect(device.linkState).toBe('closed');
    expect((await rejection(device.close())).code).toBe('ENOSPC');
  });

  it('fails when the last flush is not answered', async () => {
    const server = await startServer();
    server.intercept = (request) => request.type === NBD_CMD.FLUSH;
    const { device } = await open(server.uri, { closeTimeoutMs: 50 });
    await device.write(0, pattern(512, 1), false);
    expect((await rejection(device.close())).message).toContain('last FLUSH within 50 ms');
  });

  it('works while the server is away, and fails only if something is lost by it', async () => {
    const server = await startServer();
    const clean = await open(server.uri, { closeTimeoutMs: 50 });
    const dirty = await open(server.uri, { closeTimeoutMs: 50 });
    await clean.device.read(0, Buffer.alloc(512));
    await dirty.device.write(0, pattern(512, 1), false);
    await server.stop();
    await waitUntil(() => clean.device.linkState === 'waiting', { what: 'the loss', intervalMs: 1 });
    await clean.device.close();
    expect((await rejection(dirty.device.close())).code).toBe('EIO');
    expect([clean.device.linkState, dirty.device.linkState]).toEqual(['closed', 'closed']);
  });

  it('works while the link is being made anew', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    server.takeOver = () => true;
    server.cut();
    await waitUntil(() => device.linkState === 'handshake', { what: 'the handshake', intervalMs: 1 });
    await device.close();
    expect(device.linkState).toBe('closed');
  });

  it('may meet the answers to what was sent once more', async () => {
    const server = await startServer();
    const { device } = await open(server.uri, { closeTimeoutMs: 50 });
    await device.write(0, pattern(512, 1), false);
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.type === NBD_CMD.WRITE) held.push(request);
      // The last replies come after DISC, as the protocol allows.
      if (request.type === NBD_CMD.DISC) for (const one of held) server.serve(one);
      return request.type === NBD_CMD.WRITE;
    };
    server.cut();
    await waitUntil(() => held.length === 1, { what: 'the replay' });
    expect(device.linkState).toBe('replaying');
    expect((await rejection(device.close())).code).toBe('EIO');
    expect(device.linkState).toBe('closed');
  });

  it('gives up on a server that does not end the connection', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.read(0, Buffer.alloc(512));
    const { socket } = server.requests[0]!;
    socket.removeAllListeners('data');
    socket.pause();
    await device.close();
    expect(device.linkState).toBe('closed');
  });
});
