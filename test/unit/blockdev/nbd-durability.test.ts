// A flush keeps its word across a server that was lost with its cache: what was answered is sent once more, and
// when that can't be, the flush fails.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { OrderedDevice } from '../../../src/blockdev/ordered-device.ts';
import { NBD_CMD, NBD_ERROR } from '../../../src/nbdwire/constants.ts';
import { DiskModel, pattern } from '../../support/disk-model.ts';
import { operationBatches, runBatch } from '../../support/random-operations.ts';
import { waitUntil } from '../../support/wait-until.ts';
import type { FakeNbdServer, FakeRequest } from './nbd-fake-server.ts';
import { open, rejection, startServer } from './nbd-harness.ts';

async function restart(server: FakeNbdServer): Promise<void> {
  await server.crash();
  server.requests.length = 0;
  await server.start();
}

describe('changes that were answered and not flushed', () => {
  it('are sent again, in order and before anything else, to a server that forgot them', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.write(0, pattern(4096, 1), false);
    await device.flush();
    await device.write(4096, pattern(4096, 2), false);
    await device.write(4096, pattern(512, 3), true);
    await device.trim(6144, 512, false);
    await server.crash();
    server.requests.length = 0;
    const read = Buffer.alloc(8192);
    const calls = [device.read(0, read), device.write(8192, pattern(512, 4), false)];
    await server.start();
    await Promise.all(calls);
    // One at a time: they overlap.
    expect(server.log).toEqual([
      'WRITE 4096..8192',
      'WRITE+1 4096..4608',
      'WRITE_ZEROES 6144..6656',
      'READ 0..8192',
      'WRITE 8192..8704',
    ]);
    const model = new DiskModel(8192);
    model.write(0, pattern(4096, 1));
    model.write(4096, pattern(4096, 2));
    model.write(4096, pattern(512, 3));
    model.zero(6144, 512);
    expect(model.firstDifference(read)).toBe(-1);
  });

  it('are not sent again once a flush covers them', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.write(0, pattern(512, 1), false);
    await device.write(512, pattern(512, 1), true);
    await device.flush();
    await device.write(1024, pattern(512, 1), true);
    await restart(server);
    await device.read(0, Buffer.alloc(512));
    expect(server.log).toEqual(['READ 0..512']);
  });

  it('are sent again when the flush was submitted before they were answered', async () => {
    const server = await startServer();
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.type !== NBD_CMD.WRITE || request.connection > 0) return false;
      held.push(request);
      return true;
    };
    const { device } = await open(server.uri);
    const written = device.write(0, pattern(512, 1), false);
    await device.flush();
    server.serve(held[0]!);
    await written;
    await restart(server);
    await device.read(0, Buffer.alloc(512));
    expect(server.log).toEqual(['WRITE 0..512', 'READ 0..512']);
  });

  it('are sent again and again while the server keeps dying', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    for (let i = 0; i < 8; i += 1) await device.write(i * 512, pattern(512, i), false);
    let deaths = 0;
    server.intercept = (request) => {
      if (server.requests.length % 5 !== 0 || deaths === 3) return false;
      deaths += 1;
      request.socket.destroy();
      return true;
    };
    await restart(server);
    await device.flush();
    expect(deaths).toBe(3);
    for (let i = 0; i < 8; i += 1) {
      expect(server.durable.subarray(i * 512, i * 512 + 512).equals(pattern(512, i)), `${i}`).toBe(true);
    }
  });

  it('make the next flush fail, and those under way, when the server refuses them the second time', async () => {
    const server = await startServer();
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.connection > 0 && request.type === NBD_CMD.WRITE) request.reply(NBD_ERROR.ENOSPC);
      else if (request.connection === 0 && request.type === NBD_CMD.FLUSH) held.push(request);
      else return false;
      return true;
    };
    const { device, lines } = await open(server.uri);
    await device.write(0, pattern(512, 1), false);
    const underWay = device.flush();
    await server.arrived(2);
    server.cut();
    const error = await rejection(underWay);
    expect(error.code).toBe('EIO');
    expect(error.message).toMatch(/ENOSPC.*sent once more.*may be lost/);
    expect((await rejection(device.flush())).code).toBe('EIO');
    await device.flush();
    expect(lines.filter((line) => line.level === 50)).toHaveLength(1);
  });

  it('survive any crashes: what a flush covers is on the disk', { timeout: 60_000 }, async () => {
    const sizeBytes = 128 * KiB;
    await fc.assert(
      fc.asyncProperty(
        operationBatches(sizeBytes, 8),
        fc.array(fc.nat(60), { maxLength: 8 }),
        async (batches, crashes) => {
          const server = await startServer({ sizeBytes });
          const opened = await open(server.uri, { unflushedBytes: 64 * KiB, maxInFlight: 4 });
          const device: BlockDevice = new OrderedDevice(opened.device);
          const model = new DiskModel(sizeBytes);
          const moments = new Set(crashes);
          let count = 0;
          let crashing: Promise<void> = Promise.resolve();
          server.intercept = () => {
            count += 1;
            if (!moments.has(count)) return false;
            // The request is lost with the server: half of the time it was carried out.
            crashing = crashing.then(async () => {
              await server.crash();
              await server.start();
            });
            return count % 2 === 0;
          };
          for (const batch of batches) await runBatch(device, model, batch);
          await device.flush();
          await crashing;
          expect(model.firstDifference(server.durable)).toBe(-1);
          await device.close();
          await server.stop();
        },
      ),
      { numRuns: 40, interruptAfterTimeLimit: 30_000 },
    );
  });
});

describe('the log of unflushed changes', () => {
  it('is emptied by a flush of its own when half full, and changes wait when it is full; reads do not', async () => {
    const server = await startServer();
    const flushes: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.type === NBD_CMD.FLUSH) flushes.push(request);
      return request.type === NBD_CMD.FLUSH;
    };
    const { device } = await open(server.uri, { unflushedBytes: 64 * KiB });
    const writes = Array.from({ length: 32 }, (_, i) => device.write(i * 8192, pattern(8192, i), false));
    await waitUntil(() => flushes.length === 1, { what: 'the flush' });
    await waitUntil(() => server.of(NBD_CMD.WRITE).length === 8, { what: 'the writes that fit' });
    await device.read(0, Buffer.alloc(512));
    expect(server.of(NBD_CMD.WRITE)).toHaveLength(8);
    let served = 0;
    server.intercept = (request) => {
      served += request.type === NBD_CMD.FLUSH ? 1 : 0;
      return false;
    };
    server.serve(flushes[0]!);
    await Promise.all(writes);
    expect(served).toBeGreaterThanOrEqual(3);
    expect(server.of(NBD_CMD.WRITE)).toHaveLength(32);
  });

  it('lets one change pass that is larger than itself', async () => {
    const server = await startServer();
    const { device } = await open(server.uri, { unflushedBytes: 4 * KiB });
    await Promise.all([0, 1, 2].map((i) => device.write(i * 65536, pattern(65536, i), false)));
    await device.flush();
    expect(server.durable.subarray(131072, 196608).equals(pattern(65536, 2))).toBe(true);
  });

  it('fails the next flush when its own did, since nobody else was told', async () => {
    const server = await startServer();
    let failures = 0;
    server.intercept = (request) => {
      if (request.type !== NBD_CMD.FLUSH || failures > 0) return false;
      failures += 1;
      request.reply(NBD_ERROR.EIO);
      return true;
    };
    const { device } = await open(server.uri, { unflushedBytes: 16 * KiB });
    await device.write(0, pattern(12 * KiB, 1), false);
    await waitUntil(() => failures === 1, { what: 'the flush' });
    await device.write(65536, pattern(512, 1), false);
    expect((await rejection(device.flush())).message).toMatch(/a flush that nobody waited for failed/);
    await device.flush();
  });

  it('does not count what was in flight on connections that are gone', async () => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.connection < 6 && request.type === NBD_CMD.WRITE) request.socket.destroy();
      return request.connection < 6;
    };
    const { device } = await open(server.uri, { unflushedBytes: 16 * KiB });
    await Promise.all([0, 1, 2].map((i) => device.write(i * 4096, pattern(4096, i), false)));
    expect(server.connections).toBe(7);
  });

  it('does not hold changes back for ever when its flush was lost with the server', async () => {
    const server = await startServer();
    server.intercept = (request) => request.type === NBD_CMD.FLUSH;
    const { device } = await open(server.uri, { unflushedBytes: 16 * KiB, reconnectTimeoutMs: 50 });
    const writes = Array.from({ length: 4 }, (_, i) => device.write(i * 16384, pattern(16384, i), false));
    await waitUntil(() => server.of(NBD_CMD.FLUSH).length === 1, { what: 'the flush' });
    await server.stop();
    await Promise.all(writes.slice(1).map(rejection));
    server.intercept = () => false;
    await server.start();
    await waitUntil(() => device.linkState === 'live', { what: 'the server to be found again' });
    await device.write(512 * KiB, pattern(16384, 9), false);
    await device.flush();
    expect(server.durable.subarray(0, 16384).equals(pattern(16384, 0))).toBe(true);
  });
});

describe('without a log', () => {
  it('the first flush after a loss of unflushed changes fails, once', async () => {
    const server = await startServer();
    const { device, lines } = await open(server.uri, { unflushedBytes: 0 });
    await device.write(0, pattern(512, 1), false);
    await restart(server);
    await device.read(0, Buffer.alloc(512));
    expect(server.log).toEqual(['READ 0..512']);
    const error = await rejection(device.flush());
    expect(error.code).toBe('EIO');
    expect(error.message).toContain('answered changes may be lost');
    expect(lines.filter((line) => line.level === 50)).toHaveLength(1);
    await device.flush();
  });

  it('a loss with nothing unflushed is none', async () => {
    const server = await startServer();
    const { device } = await open(server.uri, { unflushedBytes: 0 });
    await device.write(0, pattern(512, 1), false);
    await device.flush();
    await device.write(0, pattern(512, 1), true);
    await restart(server);
    await device.flush();
  });

  it('nothing waits for a flush', async () => {
    const server = await startServer();
    const { device } = await open(server.uri, { unflushedBytes: 0 });
    for (let i = 0; i < 64; i += 1) await device.write(0, Buffer.alloc(1 * MiB), false);
    expect(server.of(NBD_CMD.FLUSH)).toEqual([]);
  });
});
