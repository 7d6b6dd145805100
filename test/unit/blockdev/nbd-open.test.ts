// Opening an NBD device: what is asked of the server, and the words when it can't be.

import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { MAX_REQUEST_BYTES, MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { openNbdDevice } from '../../../src/blockdev/nbd-client/index.ts';
import { NBD_FLAG_HAS_FLAGS, NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_FUA } from '../../../src/nbdwire/constants.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { ALL_FLAGS } from './nbd-fake-server.ts';
import { later, open, rejection, startServer } from './nbd-harness.ts';

/** A TCP server that does as told; returns its URI. */
async function listener(serve: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  later(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return `nbd://127.0.0.1:${(server.address() as AddressInfo).port}/disk`;
}

/** All bytes of a good server's side of the handshake, for a disk of 1 MiB; nothing newer than GO is known to it. */
const GOOD = Buffer.concat([
  Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1'),
  Buffer.from('0003e889045565a9' + '0000000b' + '80000001' + '00000000', 'hex'),
  Buffer.from('0003e889045565a9' + '00000008' + '80000001' + '00000000', 'hex'),
  Buffer.from(
    '0003e889045565a90000000700000003' + '0000000e0003' + '00000200' + '00001000' + '02000000',
    'hex',
  ),
  Buffer.from('0003e889045565a90000000700000003' + '0000000c0000' + '0000000000100000' + '006d', 'hex'),
  Buffer.from('0003e889045565a90000000700000001' + '00000000', 'hex'),
]);

describe('openNbdDevice', () => {
  it('tells size and limits as the server does', async () => {
    const server = await startServer({ sizeBytes: 2 * MiB, minBlockBytes: 4096, preferredBlockBytes: 65536 });
    const { device } = await open(server.uri);
    expect(device.sizeBytes).toBe(2 * MiB);
    expect(device.linkState).toBe('live');
    expect(device.limits).toEqual({
      readOnly: false,
      minBlockBytes: 4096,
      preferredBlockBytes: 65536,
      maxRequestBytes: MAX_REQUEST_BYTES,
      fastZero: 'never',
      cheapExtents: false,
    });
  });

  it('is read-only when the server is, or when told to be', async () => {
    const server = await startServer({ flags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY });
    const readOnly = await open(server.uri);
    expect(readOnly.device.limits.readOnly).toBe(true);
    expect(readOnly.lines).toEqual([]);
    const writable = await startServer();
    const { device } = await open(writable.uri, { readOnly: true });
    expect(device.limits.readOnly).toBe(true);
    for (const change of [
      () => device.write(0, Buffer.alloc(512), false),
      () => device.trim(0, 512, false),
      () => device.writeZeroes(0, 512, false, false),
    ]) {
      expect(change).toThrow('read-only');
    }
    expect(writable.requests).toEqual([]);
  });

  it.each([
    [NBD_FLAG_HAS_FLAGS, /neither FLUSH nor FUA/],
    [NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA, /no FLUSH: every change is sent with FUA/],
  ])('warns once of a server that makes nothing durable (flags %d)', async (flags, words) => {
    const { device, lines } = await open((await startServer({ flags })).uri);
    await device.flush();
    await device.flush();
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level: 40 });
    expect(lines[0]!.msg).toMatch(words);
  });

  it('reads the handshake however it is cut', async () => {
    for (const size of [1, 2, 3, 7, 19]) {
      const uri = await listener((socket) => {
        socket.resume();
        for (let at = 0; at < GOOD.length; at += size) {
          socket.cork();
          socket.write(GOOD.subarray(at, at + size));
          socket.uncork();
        }
      });
      const { device } = await open(uri);
      expect(device.sizeBytes).toBe(1 * MiB);
    }
  });

  it('fails with words when the server hangs up, whatever byte it was at', async () => {
    for (let cut = 0; cut < GOOD.length; cut += 1) {
      const uri = await listener((socket) => socket.end(GOOD.subarray(0, cut)));
      const error = await rejection(openNbdDevice(uri, { logger: silentLogger }));
      expect(error).toBeInstanceOf(OperationError);
      expect(error.message).toMatch(/the server closed the connection|ECONNRESET|EPIPE/);
    }
  });

  it('fails when the connection is reset in the handshake', async () => {
    const uri = await listener((socket) => {
      socket.write(GOOD.subarray(0, 30), () => socket.resetAndDestroy());
    });
    expect(await rejection(openNbdDevice(uri, { logger: silentLogger }))).toBeInstanceOf(OperationError);
  });

  it('does not wait for ever for a server that stops talking', async () => {
    for (const cut of [0, 18, 60]) {
      let socket: Socket | undefined;
      const uri = await listener((accepted) => {
        socket = accepted;
        accepted.resume();
        accepted.write(GOOD.subarray(0, cut));
      });
      const error = await rejection(openNbdDevice(uri, { logger: silentLogger, connectTimeoutMs: 60 }));
      expect(error.message).toContain('no NBD handshake within 60 ms');
      await waitUntil(() => socket?.closed, { what: 'the connection to end' });
    }
  });

  it('names what is not an NBD server', async () => {
    const uri = await listener((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    const error = await rejection(openNbdDevice(uri, { logger: silentLogger }));
    expect(error.message).toMatch(/not an NBD server: it began with "HTTP\/1\.1"/);
    expect(error.hint).toContain('check host and port');
  });

  it('says what to do when nothing listens, on TCP and on a socket', async () => {
    const server = await startServer();
    await server.stop();
    const refused = await rejection(openNbdDevice(server.uri, { logger: silentLogger }));
    expect(refused.message).toContain('ECONNREFUSED');
    expect(refused.hint).toContain('start the server');
    const folder = await mkdtemp(join(tmpdir(), 'nbd-open-'));
    later(() => rm(folder, { recursive: true }));
    const missing = `nbd+unix:///?socket=${folder}/none`;
    const error = await rejection(openNbdDevice(missing, { logger: silentLogger }));
    expect(error).toBeInstanceOf(OperationError);
    expect(error.hint).toContain('no such socket');
  });

  it('names an export that does not exist, and takes its leave', async () => {
    const server = await startServer();
    const error = await rejection(
      openNbdDevice(server.uri.replace(/disk$/, 'desk'), { logger: silentLogger }),
    );
    expect(error.message).toContain('no export "desk"');
    expect(error.hint).toContain('nbdinfo --list nbd://');
    await waitUntil(() => server.openConnections === 0, { what: 'the connection to end' });
  });

  it.each([
    [{ sizeBytes: 1000 }, /no multiple of 512.*make it 1024 bytes/],
    [{ minBlockBytes: 3 }, /power of two/],
    [{ maxPayloadBytes: 100 }, /at most 100 bytes/],
  ])('refuses an export that can not be used: %o', async (options, words) => {
    const server = await startServer(options);
    const error = await rejection(openNbdDevice(server.uri, { logger: silentLogger }));
    expect(error).toBeInstanceOf(OperationError);
    expect(error.message).toMatch(words);
    await waitUntil(() => server.openConnections === 0, { what: 'the connection to end' });
  });

  it('refuses a wrong URI before it dials', async () => {
    expect(await rejection(openNbdDevice('nbd:host:1', { logger: silentLogger }))).toBeInstanceOf(UsageError);
  });

  it('asks nothing of the server but the handshake', async () => {
    const server = await startServer({ flags: ALL_FLAGS });
    const { device } = await open(server.uri);
    await device.close();
    expect(server.log).toEqual(['DISC 0..0']);
  });
});
