// What each call becomes on the wire, how answers find their way back, and what a wrong answer leads to.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import {
  NBD_CMD,
  NBD_ERROR,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../../src/nbdwire/constants.ts';
import { pattern } from '../../support/disk-model.ts';
import { waitUntil } from '../../support/wait-until.ts';
import type { FakeRequest } from './nbd-fake-server.ts';
import { open, rejection, startServer } from './nbd-harness.ts';

describe('requests', () => {
  it('carry offset, length, flags and data', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    const target = Buffer.alloc(4096, 0xee);
    await device.write(8192, pattern(4096, 1), false);
    await device.write(12288, pattern(512, 2), true);
    await device.read(8192, target);
    await device.flush();
    await device.writeZeroes(0, 4096, false, true);
    await device.writeZeroes(0, 4096, true, false);
    await device.trim(512, 1024, true);
    await device.cache(0, 65536);
    expect(server.log).toEqual([
      'WRITE 8192..12288',
      'WRITE+1 12288..12800',
      'READ 8192..12288',
      'FLUSH 0..0',
      'WRITE_ZEROES 0..4096',
      'WRITE_ZEROES+3 0..4096',
      'WRITE_ZEROES+1 512..1536',
      'CACHE 0..65536',
    ]);
    expect(target.equals(pattern(4096, 1))).toBe(true);
    expect(server.requests[0]!.data!.equals(pattern(4096, 1))).toBe(true);
    expect(await device.extents(512, 1024)).toEqual([
      { offset: 512, length: 1024, hole: false, zero: false },
    ]);
  });

  it('are not made of nothing', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    const none = Buffer.alloc(0);
    expect([
      device.read(0, none),
      device.write(0, none, true),
      device.trim(0, 0, true),
      device.writeZeroes(0, 0, true, false),
      device.cache(0, 0),
    ]).toEqual([undefined, undefined, undefined, undefined, undefined]);
    expect(server.requests).toEqual([]);
  });

  it('reach beyond 2^32 and up to the end of the largest disk', async () => {
    const server = await startServer();
    server.sizeBytes = 2 ** 53 - 512;
    server.intercept = (request) => {
      request.reply();
      return true;
    };
    const { device } = await open(server.uri);
    for (const offset of [2 ** 31, 2 ** 32 - 512, 2 ** 32, 2 ** 53 - 1024]) {
      await device.write(offset, Buffer.alloc(512), false);
    }
    expect(server.requests.map((request) => request.offset)).toEqual([
      2 ** 31,
      2 ** 32 - 512,
      2 ** 32,
      2 ** 53 - 1024,
    ]);
  });

  it('are split at what the server takes, and fail when one part does', async () => {
    const server = await startServer({ maxPayloadBytes: 64 * KiB });
    const { device } = await open(server.uri);
    const data = pattern(200 * KiB, 3);
    await device.write(4096, data, true);
    expect(server.log).toEqual([
      'WRITE+1 4096..69632',
      'WRITE+1 69632..135168',
      'WRITE+1 135168..200704',
      'WRITE+1 200704..208896',
    ]);
    const target = Buffer.alloc(200 * KiB);
    await device.read(4096, target);
    expect(target.equals(data)).toBe(true);
    server.intercept = (request) => {
      if (request.offset !== 64 * KiB) return false;
      request.reply(NBD_ERROR.ENOSPC);
      return true;
    };
    expect((await rejection(device.write(0, data, false))).code).toBe('ENOSPC');
    expect((await rejection(device.read(0, target))).code).toBe('ENOSPC');
  });

  it('leave together, up to the limit of requests in flight', async () => {
    const server = await startServer();
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      held.push(request);
      return true;
    };
    const { device } = await open(server.uri, { maxInFlight: 4 });
    const reads = Array.from({ length: 10 }, (_, i) => device.read(i * 512, Buffer.alloc(512)));
    await server.arrived(4);
    // One more gets through for each that is answered, and no sooner.
    for (let answered = 1; answered <= 10; answered += 1) {
      server.serve(held.shift()!);
      await server.arrived(Math.min(10, 4 + answered));
      expect(server.requests.length).toBe(Math.min(10, 4 + answered));
    }
    await Promise.all(reads);
  });

  it('are matched with answers in any order, cut anywhere', async () => {
    const server = await startServer();
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      held.push(request);
      return true;
    };
    const { device } = await open(server.uri);
    const targets = Array.from({ length: 16 }, () => Buffer.alloc(1000));
    const done: number[] = [];
    const reads = targets.map(async (target, i) => {
      await device.read(i * 4096, target);
      done.push(i);
    });
    await server.arrived(16);
    const stream = Buffer.concat(held.reverse().map((request, i) => request.bytes(0, pattern(1000, 15 - i))));
    const socket = held[0]!.socket;
    for (let at = 0; at < stream.length; at += 777) socket.write(stream.subarray(at, at + 777));
    await Promise.all(reads);
    expect(done).toEqual([15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    targets.forEach((target, i) => {
      expect(target.equals(pattern(1000, i)), `read ${i}`).toBe(true);
    });
  });

  it.each([
    ['EPERM', NBD_ERROR.EPERM],
    ['EIO', NBD_ERROR.EIO],
    ['ENOMEM', NBD_ERROR.ENOMEM],
    ['EINVAL', NBD_ERROR.EINVAL],
    ['ENOSPC', NBD_ERROR.ENOSPC],
    ['EOVERFLOW', NBD_ERROR.EOVERFLOW],
    ['ENOTSUP', NBD_ERROR.ENOTSUP],
    ['EINVAL', 123456],
  ])('fail with %s when the server answers %d, and the connection lives on', async (code, value) => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.type === NBD_CMD.DISC || request.offset !== 512) return false;
      request.reply(value);
      return true;
    };
    const { device } = await open(server.uri);
    for (const call of [device.read(512, Buffer.alloc(512)), device.write(512, Buffer.alloc(512), false)]) {
      const error = await rejection(call);
      expect(error).toBeInstanceOf(BlockError);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(/(READ|WRITE) of 512 bytes at 512/);
    }
    await device.read(0, Buffer.alloc(512));
    expect(server.connections).toBe(1);
  });
});

describe('durability by the means that the server has', () => {
  const BASE = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;

  it('is FUA when offered', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.write(0, Buffer.alloc(512), true);
    expect(server.log).toEqual(['WRITE+1 0..512']);
  });

  it('is a flush after the change when FUA is not', async () => {
    const server = await startServer({ flags: BASE | NBD_FLAG_SEND_FLUSH, maxPayloadBytes: 64 * KiB });
    const held: FakeRequest[] = [];
    server.intercept = (request) => {
      if (request.type === NBD_CMD.FLUSH) held.push(request);
      return request.type === NBD_CMD.FLUSH;
    };
    const { device } = await open(server.uri);
    const written = device.write(0, Buffer.alloc(65 * KiB), true);
    await server.arrived(3);
    expect(server.log).toEqual(['WRITE 0..65536', 'WRITE 65536..66560', 'FLUSH 0..0']);
    held[0]!.reply(NBD_ERROR.EIO);
    expect((await rejection(written)).code).toBe('EIO');
    const zeroed = device.trim(0, 4096, true);
    await server.arrived(5);
    expect(server.log.slice(3)).toEqual(['WRITE_ZEROES 0..4096', 'FLUSH 0..0']);
    held[1]!.reply();
    await zeroed;
  });

  it('is FUA on everything when there is no flush', async () => {
    const server = await startServer({ flags: BASE | NBD_FLAG_SEND_FUA });
    const { device } = await open(server.uri);
    await device.write(0, Buffer.alloc(512), false);
    await device.trim(0, 512, false);
    await device.flush();
    expect(server.log).toEqual(['WRITE+1 0..512', 'WRITE_ZEROES+1 0..512']);
  });

  it('is left out when there is neither', async () => {
    const server = await startServer({ flags: BASE });
    const { device } = await open(server.uri);
    await device.write(0, Buffer.alloc(512), true);
    expect(device.flush()).toBeUndefined();
    expect(server.log).toEqual(['WRITE 0..512']);
  });
});

describe('zeroes', () => {
  it('are never left to TRIM, which promises none', async () => {
    const server = await startServer();
    const { device } = await open(server.uri);
    await device.trim(0, 1 * MiB, false);
    expect(server.log).toEqual(['WRITE_ZEROES 0..1048576']);
  });

  it('are cut below 4 GiB, in whole blocks', async () => {
    const server = await startServer({ minBlockBytes: 4096 });
    server.sizeBytes = 16 * GiB;
    server.intercept = (request) => {
      request.reply();
      return true;
    };
    const { device } = await open(server.uri);
    await device.trim(4096, 4 * GiB, false);
    let at = 4096;
    for (const request of server.requests) {
      expect([request.type, request.offset, request.length % 4096]).toEqual([NBD_CMD.WRITE_ZEROES, at, 0]);
      at += request.length;
    }
    expect(at).toBe(4 * GiB + 4096);
  });

  it.each([NBD_ERROR.EOVERFLOW, NBD_ERROR.EINVAL])(
    'are cut smaller for a server that finds them too many (%d)',
    async (value) => {
      const server = await startServer({ maxPayloadBytes: 64 * KiB });
      server.intercept = (request) => {
        if (request.length <= 64 * KiB) return false;
        request.reply(value);
        return true;
      };
      const { device } = await open(server.uri);
      server.cached.fill(1);
      await device.writeZeroes(4096, 200 * KiB, false, false);
      expect(server.cached.subarray(4096, 4096 + 200 * KiB).equals(Buffer.alloc(200 * KiB))).toBe(true);
      expect([server.cached[4095], server.cached[4096 + 200 * KiB]]).toEqual([1, 1]);
      const before = server.requests.length;
      await device.trim(0, 128 * KiB, false);
      expect(server.requests.length - before).toBe(2);
    },
  );

  it('fail when the server refuses what it could take', async () => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.type !== NBD_CMD.WRITE_ZEROES) return false;
      request.reply(NBD_ERROR.EINVAL);
      return true;
    };
    const { device } = await open(server.uri);
    expect((await rejection(device.trim(0, 4096, false))).code).toBe('EINVAL');
  });

  it('are written where there is no other way, a few at a time, and fail as writes do', async () => {
    const flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM;
    const server = await startServer({ flags, sizeBytes: 16 * MiB });
    server.cached.fill(1);
    const { device } = await open(server.uri);
    await device.trim(512, 10 * MiB, true);
    expect(server.cached.subarray(512, 512 + 10 * MiB).every((byte) => byte === 0)).toBe(true);
    expect([server.cached[511], server.cached[512 + 10 * MiB]]).toEqual([1, 1]);
    expect(server.of(NBD_CMD.WRITE)).toHaveLength(10);
    expect(server.requests.every((request) => request.flags === 1 && request.length <= 1 * MiB)).toBe(true);
    server.intercept = (request) => {
      if (request.offset !== 3 * MiB) return false;
      request.reply(NBD_ERROR.EIO);
      return true;
    };
    expect((await rejection(device.writeZeroes(0, 16 * MiB, false, false))).code).toBe('EIO');
    expect(server.of(NBD_CMD.WRITE).length).toBeLessThan(20);
  });
});

describe('cache', () => {
  it('is not asked of a server that has none', async () => {
    const server = await startServer({ flags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH });
    const { device } = await open(server.uri);
    expect(device.cache(0, 4096)).toBeUndefined();
    expect(server.requests).toEqual([]);
  });

  it('never fails', async () => {
    const server = await startServer();
    server.intercept = (request) => {
      request.reply(NBD_ERROR.EIO);
      return true;
    };
    const { device } = await open(server.uri);
    await device.cache(0, 4096);
  });
});

describe('a server that answers wrongly', () => {
  const cases: Array<[string, (request: FakeRequest) => void, RegExp]> = [
    [
      'a request that never was',
      (request) => {
        const bytes = request.bytes();
        bytes.writeUInt32BE(77, 8);
        request.socket.write(bytes);
      },
      /not outstanding/,
    ],
    [
      'the slot of a request, with the number of another',
      (request) => {
        const bytes = request.bytes();
        bytes.writeUInt32BE(bytes.readUInt32BE(12) + 1, 12);
        request.socket.write(bytes);
      },
      /not outstanding/,
    ],
    [
      'twice',
      (request) => request.socket.write(Buffer.concat([request.bytes(5), request.bytes(5)])),
      /not outstanding/,
    ],
    ['with nonsense', (request) => request.socket.write(Buffer.alloc(16, 0xaa)), /0xaaaaaaaa/],
    [
      'with a structured reply',
      (request) => {
        const bytes = request.bytes();
        bytes.writeUInt32BE(0x668e33ef);
        request.socket.write(bytes);
      },
      /structured/,
    ],
    [
      'a write with data',
      (request) => request.socket.write(request.bytes(0, Buffer.alloc(4096))),
      /0x00000000/,
    ],
  ];

  it.each(cases)('%s, is left, and the request is made again elsewhere', async (name, misbehave, words) => {
    const server = await startServer();
    server.intercept = (request) => {
      if (request.connection > 0) return false;
      misbehave(request);
      return true;
    };
    const { device, lines } = await open(server.uri);
    const written = device.write(4096, pattern(4096, 5), false);
    if (name === 'twice') expect((await rejection(written)).code).toBe('EIO');
    else await written;
    await waitUntil(() => server.connections === 2, { what: 'the second connection' });
    const lost = lines.find((line) => line.msg.startsWith('lost the NBD server')) as
      | { reason?: string }
      | undefined;
    expect(lost?.reason).toMatch(words);
    await device.write(8192, pattern(512, 6), false);
    if (name !== 'twice') expect(server.cached.subarray(4096, 8192).equals(pattern(4096, 5))).toBe(true);
  });

  it('before it has read the data: the buffer is lent until the data has left', async () => {
    const server = await startServer({ sizeBytes: 64 * MiB });
    const { device } = await open(server.uri, { connectTimeoutMs: 10_000 });
    await device.read(0, Buffer.alloc(512));
    const socket = server.requests[0]!.socket;
    // Answers from the header alone, and reads no further: the kernel can't take 32 MiB.
    const early = new Promise<void>((resolve) => {
      socket.removeAllListeners('data');
      socket.once('data', (chunk: Buffer) => {
        socket.pause();
        const reply = Buffer.from('6744669800000001', 'hex');
        socket.write(Buffer.concat([reply, chunk.subarray(8, 16)]), () => resolve());
      });
    });
    let settled = false;
    const written = rejection(device.write(0, Buffer.alloc(32 * MiB, 7), false)).then((error) => {
      settled = true;
      return error;
    });
    await early;
    // The reply has arrived by now: one more round trip of the loop and of the kernel.
    await waitUntil(() => socket.bytesWritten > 0, { what: 'the reply to leave' });
    for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    expect(settled).toBe(false);
    socket.on('data', () => {});
    socket.resume();
    expect((await written).code).toBe('EPERM');
  });
});
