// Clients that leave, stall or talk nonsense: each at every point, and none may hurt the server, another client, or
// leave memory or descriptors behind.
import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../src/base/limits.ts';
import { NBD_CMD } from '../../src/nbdwire/constants.ts';
import { NbdRig } from '../support/nbd-rig.ts';
import {
  clientFlagsBytes,
  infoData,
  optionBytes,
  RawNbdClient,
  requestBytes,
} from '../support/raw-nbd-client.ts';
import { JumbleDevice, SparseDevice } from '../support/test-devices.ts';
import { waitUntil } from '../support/wait-until.ts';

const { READ, WRITE, DISC, FLUSH } = NBD_CMD;
const SIZE = 8 * MiB;

const SESSION = Buffer.concat([
  clientFlagsBytes(),
  optionBytes(3),
  optionBytes(99, Buffer.from('what')),
  optionBytes(7, infoData('disk', [1, 2, 3])),
  requestBytes({ type: WRITE, cookie: 1n, offset: 512, data: Buffer.alloc(64, 1) }),
  requestBytes({ type: READ, cookie: 2n, length: 4096 }),
  requestBytes({ type: WRITE, cookie: 3n, offset: SIZE, data: Buffer.alloc(32, 1) }),
  requestBytes({ type: FLUSH, cookie: 4n }),
  requestBytes({ type: DISC }),
]);

let rig: NbdRig;
let good: RawNbdClient;

async function start(options: Parameters<typeof NbdRig.start>[1] = {}): Promise<void> {
  // Late answers, so that clients leave with requests in flight.
  rig = await NbdRig.start(new JumbleDevice(new SparseDevice(SIZE), 3), { tcp: true, ...options });
  good = await rig.open();
}

async function expectUnhurt(): Promise<void> {
  const data = Buffer.alloc(8 * KiB, 0x5a);
  expect((await good.request({ type: WRITE, offset: 1 * MiB, data })).error).toBe(0);
  expect((await good.request({ type: READ, offset: 1 * MiB, length: 8 * KiB })).data.equals(data)).toBe(true);
}

afterEach(() => rig.stop());

describe('a client that leaves', () => {
  beforeEach(() => start());

  it.each(['closing', 'resetting', 'half-closing'])('by %s, after every byte of a session', async (how) => {
    for (let count = 0; count <= SESSION.length; count += 1) {
      const client = await RawNbdClient.connect(rig.to);
      client.send(SESSION.subarray(0, count));
      if (how === 'resetting') client.socket.resetAndDestroy();
      else if (how === 'half-closing') client.socket.end();
      else client.socket.destroySoon();
      if (count % 50 === 0) await expectUnhurt();
      if (how === 'half-closing') await client.readToEnd();
    }
    await expectUnhurt();
    await good.destroy();
    await rig.idle();
  });

  it('in the middle of a large write, or of a large read', async () => {
    for (let i = 0; i < 20; i += 1) {
      const client = await rig.open();
      const data = Buffer.alloc(4 * MiB, i);
      const write = requestBytes({ type: WRITE, data });
      client.send(write.subarray(0, 1000 + i * 200_000));
      for (let reads = 0; reads < 4; reads += 1) client.send(requestBytes({ type: READ, length: 8 * MiB }));
      await expectUnhurt();
      if (i % 2) client.socket.resetAndDestroy();
      else client.socket.destroy();
    }
    await good.destroy();
    await rig.idle();
  });
});

describe('a thousand clients', () => {
  it('that come and go leave no descriptor and no memory', async () => {
    await start();
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const before = descriptors();
    for (let round = 0; round < 50; round += 1) {
      const clients = await Promise.all(Array.from({ length: 20 }, () => RawNbdClient.connect(rig.to)));
      await Promise.all(
        clients.map(async (client, i) => {
          if (i % 4 === 0) return client.destroy();
          await client.greet();
          if (i % 4 === 1) return client.destroy();
          await client.go();
          if (i % 4 === 2) client.send(requestBytes({ type: READ, length: 100_000 }));
          else client.send(requestBytes({ type: DISC }));
          return client.destroy();
        }),
      );
    }
    await expectUnhurt();
    await good.destroy();
    await rig.idle();
    expect(descriptors()).toBeLessThanOrEqual(before);
    expect(sharedPool.liveBytes).toBe(0);
  });

  it('that stall in the handshake keep nobody out', async () => {
    await start({ handshakeTimeoutMs: 400 });
    const stalled = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const client = await RawNbdClient.connect(rig.to);
        client.send(SESSION.subarray(0, i % 24));
        return client;
      }),
    );
    await expectUnhurt();
    const late = await rig.open();
    expect((await late.request({ type: FLUSH })).error).toBe(0);
    await Promise.all(stalled.map((client) => client.readToEnd()));
    await waitUntil(() => rig.server.connectionCount === 2, { what: 'the stalled ones to go' });
    await Promise.all(stalled.map((client) => client.destroy()));
  });
});

describe('what is no NBD client', () => {
  beforeEach(() => start());

  it.each([
    ['a browser', Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    ['a TLS client', Buffer.from('16030100c8010000c40303', 'hex')],
    ['an SSH client', Buffer.from('SSH-2.0-OpenSSH_9.2\r\n')],
    ['zeroes', Buffer.alloc(100_000)],
    ['all ones', Buffer.alloc(100_000, 0xff)],
    ['a second server', Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1')],
  ])('is cut off: %s', async (_what, bytes) => {
    const client = await rig.connect();
    client.send(bytes);
    expect((await client.readToEnd()).toString('latin1', 0, 8)).toBe('NBDMAGIC');
    expect(rig.problems()).toHaveLength(1);
    await expectUnhurt();
  });
});
