// A lost connection: what is sent again, how long requests wait, and what makes the link give up.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { MiB } from '../../../src/base/limits.ts';
import {
  NBD_CMD,
  NBD_ERROR,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_FLUSH,
  NBD_REQUEST_BYTES,
} from '../../../src/nbdwire/constants.ts';
import { DiskModel, pattern } from '../../support/disk-model.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { ALL_FLAGS, type FakeNbdServer, type FakeRequest } from './nbd-fake-server.ts';
import { open, rejection, startServer } from './nbd-harness.ts';

/** Holds every request of the connection `number`. */
function hold(server: FakeNbdServer, number: number): FakeRequest[] {
  const held: FakeRequest[] = [];
  server.intercept = (request) => {
    if (request.connection !== number) return false;
    held.push(request);
    return true;
  };
  return held;
}

async function contents(device: { read(offset: number, target: Buffer): unknown }): Promise<Buffer> {
  const target = Buffer.alloc(1 * MiB);
  await device.read(0, target);
  return target;
}

describe('a lost connection', () => {
  it('is renewed, and what was not answered is sent again in order', async () => {
    const server = await startServer();
    const held = hold(server, 0);
    const { device, lines } = await open(server.uri);
    const calls = [
      device.write(0, pattern(4096, 1), false),
      device.read(8192, Buffer.alloc(512)),
      device.trim(4096, 4096, true),
      device.flush(),
      device.write(16384, pattern(512, 2), true),
    ];
    await server.arrived(5);
    held[1]!.reply(0, Buffer.alloc(512));
    await calls[1];
    server.cut();
    await Promise.all(calls);
    expect(server.log.slice(5)).toEqual([
      'WRITE 0..4096',
      'WRITE_ZEROES+1 4096..8192',
      'FLUSH 0..0',
      'WRITE+1 16384..16896',
    ]);
    expect(lines.map((line) => [line.level, line.msg])).toEqual([
      [40, 'lost the NBD server; reconnecting'],
      [30, 'NBD server is back'],
    ]);
  });

  it('does not mix up the order when slots were used again', async () => {
    const server = await startServer();
    const held = hold(server, 0);
    const { device } = await open(server.uri, { maxInFlight: 3 });
    const calls = [0, 1, 2, 3].map((i) => device.write(i * 512, pattern(512, i), false));
    await server.arrived(3);
    held[0]!.reply();
    await server.arrived(4);
    server.cut();
    await Promise.all(calls);
    // The first was answered, so that it comes before all others.
    expect(server.log.slice(4)).toEqual([0, 1, 2, 3].map((i) => `WRITE ${i * 512}..${i * 512 + 512}`));
  });

  it('may be cut at any byte of the replies', async () => {
    // READ, WRITE and READ: 16 + 20, 16, 16 + 20 bytes of replies.
    for (let cut = 0; cut <= 88; cut += 1) {
      const server = await startServer();
      server.cached.fill(9);
      const held = hold(server, 0);
      const { device } = await open(server.uri);
      const targets = [Buffer.alloc(20), Buffer.alloc(20)];
      const calls = [
        device.read(0, targets[0]!),
        device.write(512, pattern(100, 4), false),
        device.read(1024, targets[1]!),
      ];
      await server.arrived(3);
      const stream = Buffer.concat(held.map((request) => request.bytes(0, server.execute(request))));
      held[0]!.socket.end(stream.subarray(0, cut));
      await Promise.all(calls);
      for (const target of targets) expect(target.equals(Buffer.alloc(20, 9)), `cut ${cut}`).toBe(true);
      expect(server.cached.subarray(512, 612).equals(pattern(100, 4))).toBe(true);
      await device.close();
      await server.stop();
    }
  });

  it('may be cut at any byte of a request', async () => {
    for (const cut of [1, 14, NBD_REQUEST_BYTES - 1, NBD_REQUEST_BYTES, NBD_REQUEST_BYTES + 50_000]) {
      const server = await startServer();
      let received = 0;
      const { device } = await open(server.uri);
      await device.read(0, Buffer.alloc(512));
      const socket = server.requests[0]!.socket;
      socket.removeAllListeners('data');
      socket.on('data', (chunk: Buffer) => {
        received += chunk.length;
        if (received >= cut) socket.resetAndDestroy();
      });
      await device.write(4096, pattern(100_000, 5), false);
      expect(server.cached.subarray(4096, 104_096).equals(pattern(100_000, 5))).toBe(true);
    }
  });

  it('is renewed while idle too', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    server.cut();
    await waitUntil(() => server.connections === 2 && device.linkState === 'live', { what: 'the new link' });
    await device.read(0, Buffer.alloc(512));
  });

  it('is survived again and again under load', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    const model = new DiskModel(1 * MiB);
    let running = true;
    const worker = async (lane: number): Promise<number> => {
      let round = 0;
      for (; running; round += 1) {
        const offset = (lane * 32 + (round % 32)) * 4096;
        const data = pattern(4096, lane * 1000 + round);
        await device.write(offset, data, round % 7 === 0);
        model.write(offset, data);
        const target = Buffer.alloc(4096);
        await device.read(offset, target);
        expect(target.equals(data)).toBe(true);
      }
      return round;
    };
    const workers = Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(worker));
    for (let cuts = 0; cuts < 20; cuts += 1) {
      const before = server.requests.length;
      await server.arrived(before + 50);
      server.cut();
    }
    running = false;
    expect(Math.min(...(await workers))).toBeGreaterThan(0);
    expect(model.firstDifference(await contents(device))).toBe(-1);
    expect(server.connections).toBeGreaterThanOrEqual(20);
  });
});

describe('a server that stays away', () => {
  it('makes requests wait, fail with EIO when the time is up, and work again once it is back', async () => {
    const server = await startServer();
    const { device, lines } = await open(server.uri, { reconnectTimeoutMs: 150 });
    await device.write(0, pattern(512, 1), false);
    await server.stop();
    const began = performance.now();
    const calls = [
      device.write(512, pattern(512, 2), false),
      device.read(0, Buffer.alloc(512)),
      device.flush(),
      device.trim(0, 512, false),
    ].map(rejection);
    const errors = await Promise.all(calls);
    expect(performance.now() - began).toBeGreaterThan(100);
    for (const error of errors) {
      expect(error.code).toBe('EIO');
      expect(error.message).toContain('away for more than 150 ms');
    }
    const later = performance.now();
    expect((await rejection(device.flush())).code).toBe('EIO');
    expect(performance.now() - later).toBeLessThan(100);
    expect(lines.filter((line) => line.level >= 50)).toHaveLength(1);
    await server.start();
    await waitUntil(() => device.linkState === 'live', { what: 'the server to be found again' });
    await device.write(512, pattern(512, 2), false);
    await device.flush();
    expect(server.durable.subarray(512, 1024).equals(pattern(512, 2))).toBe(true);
  });

  it('is not waited for longer when it only accepts connections', async () => {
    const server = await startServer();
    const { device } = await open(server.uri, { reconnectTimeoutMs: 150 });
    await device.read(0, Buffer.alloc(512));
    server.intercept = (request) => {
      request.socket.destroy();
      return true;
    };
    expect((await rejection(device.read(0, Buffer.alloc(512)))).code).toBe('EIO');
    expect(server.connections).toBeGreaterThan(2);
    expect(server.connections).toBeLessThan(100);
  });

  it('holds nothing up when it comes back in time', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await server.stop();
    const written = device.write(0, pattern(512, 1), false);
    await waitUntil(() => device.linkState === 'waiting', { what: 'the loss' });
    await server.start();
    await written;
    expect(server.cached.subarray(0, 512).equals(pattern(512, 1))).toBe(true);
  });
});

describe('a server that hangs', () => {
  it('is left after the request timeout, and the request is sent again', async () => {
    const server = await startServer();
    hold(server, 0);
    const { device, lines } = await open(server.uri, { requestTimeoutMs: 60 });
    await device.write(0, pattern(512, 1), false);
    expect(server.connections).toBe(2);
    expect(JSON.stringify(lines)).toContain('no answer to WRITE of 512 bytes at 0 within 60 ms');
  });

  it('makes requests fail when it never answers', async () => {
    const server = await startServer();
    server.intercept = () => true;
    const { device } = await open(server.uri, { requestTimeoutMs: 40, reconnectTimeoutMs: 100 });
    expect((await rejection(device.read(0, Buffer.alloc(512)))).code).toBe('EIO');
  });
});

describe('a server that shuts down', () => {
  it('is told goodbye, may send its last replies, and what it refused is sent to the next', async () => {
    const server = await startServer();
    const held = hold(server, 0);
    const { device } = await open(server.uri);
    const calls = [0, 1, 2].map((i) => device.write(i * 512, pattern(512, i), false));
    await server.arrived(3);
    held[0]!.reply(NBD_ERROR.ESHUTDOWN);
    await waitUntil(() => server.of(NBD_CMD.DISC).length === 1, { what: 'DISC' });
    await Promise.all(calls);
    expect(server.connections).toBe(2);
    for (const i of [0, 1, 2]) {
      expect(server.cached.subarray(i * 512, i * 512 + 512).equals(pattern(512, i))).toBe(true);
    }
  });

  it('is given up when that is all it ever says', async () => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.type === NBD_CMD.DISC) return false;
      request.reply(NBD_ERROR.ESHUTDOWN);
      return true;
    };
    const { device } = await open(server.uri, { reconnectTimeoutMs: 100 });
    expect((await rejection(device.write(0, Buffer.alloc(512), false))).code).toBe('EIO');
    expect(server.connections).toBeLessThan(100);
  });
});

describe('a server gone mad', () => {
  /** What it may do instead of answering. */
  const MADNESS: ReadonlyArray<(server: FakeNbdServer, request: FakeRequest, value: number) => unknown> = [
    (_server, request, value) => request.reply(value),
    (_server, request) => request.reply(NBD_ERROR.ESHUTDOWN),
    (_server, request) => request.reply(0, Buffer.alloc(4096, 0x67)),
    (server, request) => [server.serve(request), server.serve(request)],
    (_server, request, value) => request.socket.write(Buffer.alloc(value % 100, value)),
    (_server, request, value) => {
      const bytes = request.bytes(0);
      bytes.writeUInt8(value % 256, value % 16);
      request.socket.write(bytes);
    },
    (_server, request) => request.socket.destroy(),
    (_server, request, value) => request.socket.end(request.bytes().subarray(0, value % 17)),
    () => undefined,
    (server, request) => server.serve(request),
    (server, request) => server.serve(request),
  ];

  it('neither crashes nor stalls the device', { timeout: 60_000 }, async () => {
    const steps = fc.array(fc.tuple(fc.nat(MADNESS.length - 1), fc.nat(100_000)), { maxLength: 40 });
    const kinds = fc.array(fc.nat(4), { minLength: 1, maxLength: 30 });
    const run = async (script: Array<[number, number]>, calls: number[]): Promise<void> => {
      const server = await startServer();
      const { device } = await open(server.uri, {
        requestTimeoutMs: 40,
        reconnectTimeoutMs: 300,
        maxInFlight: 5,
      });
      let next = 0;
      server.intercept = (request) => {
        const step = script[next];
        next += 1;
        if (!step || request.type === NBD_CMD.DISC) return false;
        MADNESS[step[0]]!(server, request, step[1]);
        return true;
      };
      const started = calls.map(async (kind, i) => {
        if (kind === 0) await device.read(i * 4096, Buffer.alloc(4096));
        else if (kind === 1) await device.write(i * 4096, pattern(4096, i), i % 3 === 0);
        else if (kind === 2) await device.trim(i * 4096, 4096, false);
        else if (kind === 3) await device.flush();
        else await device.cache(i * 4096, 4096);
      });
      for (const outcome of await Promise.allSettled(started)) {
        if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(BlockError);
      }
      server.intercept = () => false;
      await waitUntil(() => device.linkState === 'live', { what: 'the link to heal' });
      await device.close().catch((error: unknown) => expect(error).toBeInstanceOf(BlockError));
      await server.stop();
    };
    await fc.assert(fc.asyncProperty(steps, kinds, run), { numRuns: 60, interruptAfterTimeLimit: 30_000 });
  });
});

describe('an export that is no longer the same', () => {
  const changes: Array<[string, (server: FakeNbdServer) => unknown, RegExp]> = [
    [
      'a smaller size',
      (server) => Object.assign(server, { sizeBytes: MiB / 2 }),
      /size shrank from 1048576 to 524288/,
    ],
    [
      'read-only',
      (server) => Object.assign(server, { flags: ALL_FLAGS | NBD_FLAG_READ_ONLY }),
      /became read-only/,
    ],
    [
      'no flush',
      (server) => Object.assign(server, { flags: ALL_FLAGS - NBD_FLAG_SEND_FLUSH }),
      /no longer offers FLUSH/,
    ],
  ];
  it.each(changes)('fails everything from then on: %s', async (_name, change, words) => {
    const server = await startServer();
    hold(server, 0);
    const { device, lines } = await open(server.uri);
    const written = rejection(device.write(0, Buffer.alloc(512), false));
    await server.arrived(1);
    change(server);
    server.cut();
    const error = await written;
    expect(error.code).toBe('EIO');
    expect(error.message).toMatch(words);
    expect(device.linkState).toBe('failed');
    expect((await rejection(device.read(0, Buffer.alloc(512)))).message).toMatch(words);
    expect(lines.some((line) => line.level === 50)).toBe(true);
    expect(server.connections).toBe(2);
    await waitUntil(() => server.openConnections === 0, { what: 'the connection to end' });
    await device.close();
    expect(server.of(NBD_CMD.WRITE)).toHaveLength(1);
  });

  it('may have grown: it goes on with the size that was told, and says so', async () => {
    const server = await startServer();
    const { device, lines } = await open(server.uri);
    server.sizeBytes = 2 * MiB;
    server.cut();
    await waitUntil(() => server.connections > 1 && device.linkState === 'live', {
      what: 'the link to heal',
    });
    await device.write(512, Buffer.alloc(512, 1), false);
    expect(device.sizeBytes).toBe(1 * MiB);
    expect(lines.map((line) => line.msg).join()).toContain('has grown');
  });

  it('is waited for when it is only missing', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    server.takeOver = (socket) => {
      socket.end('not yet');
      return true;
    };
    server.cut();
    await waitUntil(() => server.connections > 3, { what: 'more attempts' });
    const read = device.read(0, Buffer.alloc(512));
    server.takeOver = undefined;
    await read;
  });
});
