// The server over real sockets, command by command, against devices that show what reaches them.
import { afterEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { MAX_SKIPPED_PAYLOAD_BYTES } from '../../../src/nbd/limits.ts';
import { NBD_CMD, NBD_ERROR } from '../../../src/nbdwire/constants.ts';
import { NbdRig, type NbdRigOptions } from '../../support/nbd-rig.ts';
import { exportFacts, infoData, requestBytes } from '../../support/raw-nbd-client.ts';
import {
  FaultDevice,
  HeldDevice,
  JumbleDevice,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
} from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = NBD_CMD;
const { OK, EPERM, EIO, EINVAL, ENOSPC, ENOTSUP } = NBD_ERROR;
const FUA = 1;
const NO_HOLE = 2;

let rig: NbdRig;
afterEach(() => rig.stop());

async function serve(...args: Parameters<typeof NbdRig.start>): Promise<NbdRig> {
  rig = await NbdRig.start(...args);
  return rig;
}

/** A recorder over a sparse disk, served. */
async function serveRecorder(sizeBytes = 8 * GiB, options?: NbdRigOptions): Promise<RecorderDevice> {
  const device = new RecorderDevice(new SparseDevice(sizeBytes));
  await serve(device, options);
  return device;
}

describe('exports', () => {
  it('are told with flags, sizes and names', async () => {
    const device = new SparseDevice(1 * GiB, { minBlockBytes: 512, preferredBlockBytes: 64 * KiB });
    await serve([
      { name: 'a', description: 'first', device },
      { name: 'b', device, readOnly: true },
    ]);
    const client = await rig.connect();
    await client.greet();
    const list = await client.option(3);
    expect(list.map((reply) => reply.data.toString('latin1', 4))).toEqual(['afirst', 'b', '']);
    const facts = exportFacts(await client.option(6, infoData('', [1, 2, 3])));
    expect(facts).toEqual({
      sizeBytes: BigInt(1 * GiB),
      // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO
      transmissionFlags: 0b1101_0110_1101,
      name: 'a',
      description: 'first',
      blockSizes: [512, 64 * KiB, 32 * MiB],
    });
    const readOnly = exportFacts(await client.option(6, infoData('b')));
    expect(readOnly.transmissionFlags).toBe(0b1101_0110_1111);
  });

  it('prefer a block size that the spec allows, and advertise what the device can', async () => {
    await serve(new SparseDevice(1 * MiB, { preferredBlockBytes: 1, maxRequestBytes: 1 * MiB }));
    const client = await rig.connect();
    await client.greet();
    expect(exportFacts(await client.option(6, infoData('', [3]))).blockSizes).toEqual([1, 512, 1 * MiB]);
  });

  it('are opened by EXPORT_NAME too', async () => {
    const device = await serveRecorder();
    const client = await rig.connect();
    await client.greet(0);
    client.send(Buffer.from('IHAVEOPT\0\0\0\x01\0\0\0\x04disk', 'latin1'));
    expect((await client.read(134)).readBigUInt64BE(0)).toBe(BigInt(8 * GiB));
    expect((await client.request({ type: FLUSH })).error).toBe(OK);
    expect(device.take()).toEqual(['flush']);
  });

  it('that do not exist end EXPORT_NAME, with the reason in the log', async () => {
    await serveRecorder();
    const client = await rig.connect();
    await client.greet();
    client.send(Buffer.from('IHAVEOPT\0\0\0\x01\0\0\0\x04nope', 'latin1'));
    expect((await client.readToEnd()).length).toBe(0);
    expect(rig.problems()).toEqual(['NBD connection cut no export is named "nope"']);
  });

  it('share one device between connections', async () => {
    await serve(new SparseDevice(1 * MiB));
    const [a, b] = [await rig.open(), await rig.open('disk')];
    await a.request({ type: WRITE, data: Buffer.alloc(512, 7) });
    expect((await b.request({ type: READ, length: 512 })).data).toEqual(Buffer.alloc(512, 7));
    expect(rig.server.connectionCount).toBe(2);
  });
});

describe('commands', () => {
  it('reach the device with offset, length and flags', async () => {
    const device = await serveRecorder();
    const client = await rig.open();
    const at = 5 * GiB + 512;
    const calls: Array<[Parameters<typeof client.request>[0], string]> = [
      [{ type: READ, offset: at, length: 512 }, `read ${at}+512`],
      [{ type: READ, flags: FUA, offset: at, length: 512 }, `read ${at}+512`],
      [{ type: WRITE, offset: at, data: Buffer.alloc(512, 1) }, `write ${at}+512`],
      [{ type: WRITE, flags: FUA, offset: at, data: Buffer.alloc(513, 1) }, `write ${at}+513 fua`],
      [{ type: FLUSH }, 'flush'],
      [{ type: FLUSH, flags: FUA }, 'flush'],
      [{ type: TRIM, offset: at, length: 512 }, `trim ${at}+512`],
      [{ type: TRIM, flags: FUA, offset: 0, length: 4 * GiB - 512 }, `trim 0+${4 * GiB - 512} fua`],
      [{ type: WRITE_ZEROES, offset: 0, length: 4 * GiB - 1 }, `writeZeroes 0+${4 * GiB - 1} mayTrim`],
      [{ type: WRITE_ZEROES, flags: NO_HOLE, length: 512 }, 'writeZeroes 0+512'],
      [{ type: WRITE_ZEROES, flags: FUA, length: 512 }, 'writeZeroes 0+512 fua mayTrim'],
      [{ type: CACHE, offset: at, length: 3 * GiB - 512 }, `cache ${at}+${3 * GiB - 512}`],
      [{ type: CACHE, flags: FUA, length: 1 }, 'cache 0+1'],
    ];
    for (const [spec, line] of calls) {
      expect((await client.request({ cookie: 2n ** 64n - 1n, ...spec })).error, line).toBe(OK);
      expect(device.take()).toEqual([line]);
    }
  });

  it('of no length are answered well, without the device', async () => {
    const device = await serveRecorder();
    const client = await rig.open();
    for (const type of [READ, WRITE, TRIM, CACHE, WRITE_ZEROES]) {
      expect(await client.request({ type, offset: 8 * GiB })).toEqual({ error: OK, data: Buffer.alloc(0) });
    }
    expect(device.take()).toEqual([]);
  });

  it('move data unchanged, up to the largest request and to the last byte', async () => {
    await serve(new PatternDevice(128 * MiB));
    const client = await rig.open();
    for (const [offset, length] of [
      [0, 1],
      [3, 13],
      [128 * MiB - 1, 1],
      [1000, 32 * KiB + 1],
      [64 * KiB, 128 * KiB],
      [1 * MiB + 8, 1 * MiB + 7],
      [96 * MiB, 32 * MiB],
    ] as const) {
      const { data } = await client.request({ type: READ, offset, length });
      expect(data.equals(patternBytes(offset, length)), `${offset}+${length}`).toBe(true);
      const written = Buffer.from(data).reverse();
      expect((await client.request({ type: WRITE, offset, data: written })).error).toBe(OK);
      const back = await client.request({ type: READ, offset, length });
      expect(back.data.equals(written), `${offset}+${length} written`).toBe(true);
    }
  });

  it.each([false, true])(
    'larger than the device takes are carried out in pieces (slow: %s)',
    async (slow) => {
      const recorder = new RecorderDevice(new PatternDevice(8 * MiB, { maxRequestBytes: 1 * MiB }));
      await serve(slow ? new JumbleDevice(recorder, 1) : recorder);
      const client = await rig.open();
      const length = 3 * MiB - 512;
      const { data } = await client.request({ type: READ, offset: 512, length });
      expect(data.equals(patternBytes(512, length))).toBe(true);
      const pieces = [512, 1 * MiB + 512, 2 * MiB + 512].map(
        (at) => `${at}+${Math.min(1 * MiB, length + 512 - at)}`,
      );
      expect(recorder.take()).toEqual(pieces.map((piece) => `read ${piece}`));
      const written = Buffer.from(data).reverse();
      expect((await client.request({ type: WRITE, flags: FUA, offset: 512, data: written })).error).toBe(OK);
      expect(recorder.take()).toEqual(pieces.map((piece) => `write ${piece} fua`));
      expect((await client.request({ type: READ, offset: 512, length })).data.equals(written)).toBe(true);
    },
  );

  it('of 64 MiB are accepted, though 32 MiB are advertised', async () => {
    await serve(new MemoryDevice({ sizeBytes: 128 * MiB }));
    const client = await rig.open();
    const data = Buffer.alloc(64 * MiB, 0x5a);
    expect((await client.request({ type: WRITE, data })).error).toBe(OK);
    expect((await client.request({ type: READ, length: 64 * MiB })).data.equals(data)).toBe(true);
  });

  it('sent in one burst are all answered, in order when the device is synchronous', async () => {
    const device = await serveRecorder(1 * GiB);
    const client = await rig.open();
    const requests = Array.from({ length: 3000 }, (_, i) => {
      const cookie = BigInt(i);
      if (i % 3 === 0) return requestBytes({ type: READ, cookie, offset: i, length: 100 });
      return requestBytes({ type: WRITE, cookie, offset: i, data: Buffer.alloc(i % 5000, i) });
    });
    client.send(Buffer.concat(requests));
    for (let i = 0; i < requests.length; i += 1) {
      expect(await client.readReply()).toEqual({ error: OK, cookie: BigInt(i) });
      if (i % 3 === 0) await client.read(100);
    }
    const written = device.calls.filter((call) => call.op === 'write');
    expect(written.every((call) => call.data?.every((byte) => byte === call.offset % 256))).toBe(true);
  });
});

describe('errors', () => {
  it('of range, flags and commands are told, and the connection goes on', async () => {
    const device = await serveRecorder(1 * MiB);
    const client = await rig.open();
    const past = { offset: 1 * MiB - 512, length: 513 };
    expect((await client.request({ type: READ, ...past })).error).toBe(EINVAL);
    expect((await client.request({ type: TRIM, ...past })).error).toBe(EINVAL);
    expect((await client.request({ type: CACHE, ...past })).error).toBe(EINVAL);
    expect((await client.request({ type: WRITE_ZEROES, ...past })).error).toBe(ENOSPC);
    expect((await client.request({ type: WRITE, ...past, data: Buffer.alloc(513) })).error).toBe(ENOSPC);
    expect((await client.request({ type: READ, offset: 2n ** 64n - 1n, length: 2 })).error).toBe(EINVAL);
    expect((await client.request({ type: WRITE, flags: 16, data: Buffer.alloc(512) })).error).toBe(EINVAL);
    expect((await client.request({ type: WRITE_ZEROES, flags: 16, length: 512 })).error).toBe(ENOTSUP);
    expect((await client.request({ type: READ, flags: 4, length: 512 })).error).toBe(EINVAL);
    expect((await client.request({ type: FLUSH, length: 512 })).error).toBe(EINVAL);
    expect((await client.request({ type: BLOCK_STATUS, length: 512 })).error).toBe(EINVAL);
    expect((await client.request({ type: 77, length: 512 })).error).toBe(EINVAL);
    expect((await client.request({ type: READ, length: 64 * MiB + 1 })).error).toBe(EINVAL);
    expect(device.take()).toEqual([]);
    expect((await client.request({ type: READ, length: 512 })).error).toBe(OK);
  });

  it('of a read-only export are EPERM, from the device or from its owner', async () => {
    for (const spec of [
      { name: 'x', device: new SparseDevice(1 * MiB, { readOnly: true }) },
      { name: 'x', device: new SparseDevice(1 * MiB), readOnly: true },
    ]) {
      await serve([spec]);
      const client = await rig.open();
      expect((await client.request({ type: WRITE, data: Buffer.alloc(512) })).error).toBe(EPERM);
      expect((await client.request({ type: TRIM, length: 512 })).error).toBe(EPERM);
      expect((await client.request({ type: WRITE_ZEROES, length: 512 })).error).toBe(EPERM);
      expect((await client.request({ type: FLUSH })).error).toBe(OK);
      expect((await client.request({ type: READ, length: 512 })).error).toBe(OK);
      await rig.stop();
    }
  });

  it.each([false, true])('of the device are mapped (rejected: %s)', async (rejects) => {
    const device = new FaultDevice(new SparseDevice(1 * MiB));
    await serve(device);
    const client = await rig.open();
    const cases: Array<[unknown, number]> = [
      [new BlockError('EPERM', 'x'), 1],
      [new BlockError('EIO', 'x'), 5],
      [new BlockError('ENOMEM', 'x'), 12],
      [new BlockError('EINVAL', 'x'), 22],
      [new BlockError('ENOSPC', 'x'), 28],
      [new BlockError('ESHUTDOWN', 'x'), 108],
      // The spec keeps these two for features that are not offered.
      [new BlockError('EOVERFLOW', 'x'), 22],
      [new BlockError('ENOTSUP', 'x'), 22],
      [Object.assign(new Error('x'), { code: 'EDQUOT' }), 28],
      [Object.assign(new Error('x'), { code: 'EFBIG' }), 28],
      [new Error('anything else'), 5],
      ['not even an error', 5],
    ];
    for (const [error, wire] of cases) {
      device.fail({ times: 6, error, rejects });
      for (const type of [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES]) {
        const length = type === FLUSH ? 0 : 4096;
        const data = type === WRITE ? { data: Buffer.alloc(length) } : {};
        expect((await client.request({ type, length, ...data })).error, `${type} ${error}`).toBe(wire);
      }
    }
    expect((await client.request({ type: READ, length: 4096 })).error).toBe(OK);
    expect(rig.problems()).toHaveLength(1);
  });

  it.each([false, true])('of one piece are those of the whole request (rejected: %s)', async (rejects) => {
    const recorder = new RecorderDevice(new SparseDevice(8 * MiB, { maxRequestBytes: 1 * MiB }));
    const device = new FaultDevice(recorder);
    await serve(device);
    const client = await rig.open();
    device.fail({ from: 1 * MiB, to: 2 * MiB, error: new BlockError('ENOSPC', 'x'), rejects });
    expect((await client.request({ type: WRITE, data: Buffer.alloc(3 * MiB) })).error).toBe(ENOSPC);
    expect((await client.request({ type: READ, length: 3 * MiB })).error).toBe(ENOSPC);
    expect(recorder.take()).toEqual([`write 0+${1 * MiB}`, `read 0+${1 * MiB}`]);
  });

  it('of a large READ that fails later leave no trace of it', async () => {
    const device = new FaultDevice(new SparseDevice(64 * MiB));
    await serve(device);
    const client = await rig.open();
    for (const length of [4096, 8 * MiB]) {
      device.fail({ times: 1, rejects: true });
      expect((await client.request({ type: READ, length })).error).toBe(EIO);
      expect((await client.request({ type: READ, length })).error).toBe(OK);
    }
  });
});

describe('a WRITE that is refused', () => {
  it('has its payload thrown away, however long and however it comes', async () => {
    const device = await serveRecorder(1 * MiB);
    const client = await rig.open();
    for (const length of [512, 100 * KiB, 33 * MiB, 65 * MiB]) {
      const request = requestBytes({
        type: WRITE,
        cookie: 9n,
        offset: 1 * MiB,
        data: Buffer.alloc(length, '%'),
      });
      client.send(request, requestBytes({ type: FLUSH, cookie: 10n }));
      const expected = length > 64 * MiB ? EINVAL : ENOSPC;
      expect(await client.readReply()).toEqual({ error: expected, cookie: 9n });
      expect(await client.readReply()).toEqual({ error: OK, cookie: 10n });
    }
    expect(device.take()).toEqual(['flush', 'flush', 'flush', 'flush']);
  });

  it.each([MAX_SKIPPED_PAYLOAD_BYTES + 1, 0xffffffff])(
    'and announces %i bytes is cut off',
    async (length) => {
      await serveRecorder(1 * MiB);
      const client = await rig.open();
      client.send(requestBytes({ type: WRITE, length }));
      expect((await client.readToEnd()).length).toBe(0);
      expect(rig.problems()[0]).toContain(`a WRITE of ${length} bytes`);
    },
  );
});

describe('the end of a connection', () => {
  it('comes with a logged reason when the magic of a request is wrong', async () => {
    await serveRecorder();
    const client = await rig.open();
    client.send(requestBytes({ type: FLUSH, cookie: 1n }), requestBytes({ type: FLUSH, magic: 0x12560953 }));
    expect((await client.readToEnd()).length).toBe(16);
    expect(rig.problems()).toEqual(['NBD connection cut request magic is 0x12560953']);
  });

  it('comes after DISC when everything in flight is answered', async () => {
    const device = new HeldDevice(new PatternDevice(1 * MiB));
    await serve(device);
    const client = await rig.open();
    client.send(
      requestBytes({ type: READ, cookie: 1n, offset: 4096, length: 512 }),
      requestBytes({ type: WRITE, cookie: 2n, data: Buffer.alloc(512, 5) }),
      requestBytes({ type: DISC }),
      requestBytes({ type: FLUSH, cookie: 3n }),
    );
    await waitUntil(() => device.waiting.length === 2);
    expect(client.isEnded).toBe(false);
    device.holding = false;
    await device.releaseAll();
    const answer = await client.readToEnd();
    expect(answer.length).toBe(16 + 512 + 16);
    expect(answer.subarray(16, 528)).toEqual(patternBytes(4096, 512));
    client.socket.end();
    await rig.idle();
  });

  it('comes the same way when the client only stops sending', async () => {
    const device = new HeldDevice(new SparseDevice(1 * MiB));
    await serve(device, { tcp: true });
    const client = await rig.open();
    client.send(requestBytes({ type: WRITE, cookie: 2n, data: Buffer.alloc(512, 5) }));
    client.socket.end();
    await waitUntil(() => device.waiting.length === 1);
    device.holding = false;
    await device.releaseAll();
    expect(await client.readToEnd()).toHaveLength(16);
    await rig.idle();
  });

  it('comes after ABORT, with its ACK', async () => {
    await serveRecorder();
    const client = await rig.connect();
    await client.greet();
    expect((await client.option(2)).map((reply) => reply.type)).toEqual([1]);
    expect((await client.readToEnd()).length).toBe(0);
  });
});

describe('an asynchronous device', () => {
  it('is answered in its own order', async () => {
    const device = new HeldDevice(new PatternDevice(8 * MiB));
    await serve(device);
    const client = await rig.open();
    const lengths = [512, 4096, 1 * MiB, 100];
    client.send(
      ...lengths.map((length, i) => requestBytes({ type: READ, cookie: BigInt(i), offset: i * MiB, length })),
      requestBytes({ type: WRITE, cookie: 4n, offset: 6 * MiB, data: Buffer.alloc(256 * KiB, 1) }),
      requestBytes({ type: FLUSH, cookie: 5n }),
      requestBytes({ type: 99, cookie: 6n }),
    );
    await waitUntil(() => device.waiting.length === 6);
    device.holding = false;
    expect(await client.readReply()).toEqual({ error: EINVAL, cookie: 6n });
    for (const index of [5, 2, 4, 0, 3, 1]) {
      const call = device.waiting.find((waiting) =>
        index < 4
          ? waiting.op === 'read' && waiting.offset === index * MiB
          : waiting.op === (index === 4 ? 'write' : 'flush'),
      );
      await call!.release();
      expect(await client.readReply()).toEqual({ error: OK, cookie: BigInt(index) });
      if (index < 4) {
        const data = await client.read(lengths[index]!);
        expect(data.equals(patternBytes(index * MiB, lengths[index]!))).toBe(true);
      }
    }
  });

  it('keeps a WRITE that it has in hand unchanged while more arrive', async () => {
    const below = new SparseDevice(64 * MiB);
    const device = new HeldDevice(below);
    await serve(device);
    const client = await rig.open();
    const block = 24 * KiB;
    for (let i = 0; i < 60; i += 1) {
      client.send(requestBytes({ type: WRITE, offset: i * block, data: Buffer.alloc(block, i + 1) }));
      if (i % 10 === 9) await waitUntil(() => device.waiting.length === i + 1);
    }
    await device.releaseAll();
    for (let i = 0; i < 60; i += 1) expect((await client.readReply()).error).toBe(OK);
    device.holding = false;
    for (let i = 0; i < 60; i += 1) {
      const { data } = await client.request({ type: READ, offset: i * block, length: block });
      expect(data.equals(Buffer.alloc(block, i + 1)), `block ${i}`).toBe(true);
    }
  });
});
