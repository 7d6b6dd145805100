// Servers that break the protocol after a good handshake: the connection is given up with a reason, what was asked is
// asked again on the next, and a request that has cost three connections fails.
import { describe, expect, it } from 'vitest';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { pattern } from '../../support/disk-model.ts';
import type { FakeRequest } from './nbd-fake-server.ts';
import { open, rejection, startServer } from './nbd-harness.ts';

const JUNK = Buffer.alloc(16, 0xab);

describe('a server that breaks the protocol', () => {
  it('is asked again on another connection', async () => {
    const server = await startServer();
    server.cached.set(pattern(512, 3), 0);
    let times = 0;
    server.intercept = (request) => {
      if (request.type !== NBD_CMD.READ || times === 2) return false;
      times += 1;
      request.socket.write(JUNK);
      return true;
    };
    const { device, lines } = await open(server.uri);
    const target = Buffer.alloc(512);
    await device.read(0, target);
    expect(target.equals(pattern(512, 3))).toBe(true);
    expect(server.connections).toBe(3);
    expect(JSON.stringify(lines)).toContain('0xabababab');
  });

  it('has three attempts with one request, also while it answers others well', async () => {
    const server = await startServer();
    const broken = (request: FakeRequest): boolean => request.type === NBD_CMD.READ && request.offset === 512;
    server.intercept = (request) => {
      if (broken(request)) request.socket.write(JUNK);
      return broken(request);
    };
    const { device } = await open(server.uri);
    await device.write(0, pattern(512, 1), false);
    const error = await rejection(device.read(512, Buffer.alloc(512)));
    expect(error.code).toBe('EIO');
    expect(error.message).toMatch(/READ of 512 bytes at 512.*broke the protocol.*time and again/);
    expect(server.connections).toBe(3);
    await device.write(4096, pattern(512, 2), false);
    await device.flush();
    expect(server.durable.subarray(4096, 4608).equals(pattern(512, 2))).toBe(true);
  });

  it('may do so in reply to a FLUSH: it fails, and the next one is good', async () => {
    const server = await startServer();
    let times = 0;
    server.intercept = (request) => {
      if (request.type !== NBD_CMD.FLUSH || times === 3) return false;
      times += 1;
      request.socket.write(JUNK);
      return true;
    };
    const { device } = await open(server.uri);
    await device.write(0, pattern(512, 1), false);
    expect((await rejection(device.flush())).code).toBe('EIO');
    await device.flush();
    expect(server.durable.subarray(0, 512).equals(pattern(512, 1))).toBe(true);
  });
});
