// What one client, or many, may take: connections, time for the handshake, requests and bytes in flight, replies unread.
import { afterEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { MAX_IN_FLIGHT_BYTES, MAX_IN_FLIGHT_REQUESTS, MAX_UNSENT_BYTES } from '../../../src/nbd/limits.ts';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { MAX_RECEIVE_BYTES } from '../../../src/transport/receive-buffer.ts';
import { NbdRig } from '../../support/nbd-rig.ts';
import { requestBytes } from '../../support/raw-nbd-client.ts';
import { HeldDevice, SparseDevice, settled } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, FLUSH } = NBD_CMD;

let rig: NbdRig;
afterEach(() => rig.stop());

describe('connections', () => {
  it('over the limit are closed at once, and leave place when others go', async () => {
    rig = await NbdRig.start(new SparseDevice(1 * MiB), { maxConnections: 2 });
    const first = await rig.open();
    await rig.open();
    for (let i = 0; i < 3; i += 1) expect((await (await rig.connect()).readToEnd()).length).toBe(0);
    expect(rig.problems()).toEqual(['too many NBD connections: refused one more']);
    expect((await first.request({ type: FLUSH })).error).toBe(0);
    await first.destroy();
    await waitUntil(() => rig.server.connectionCount === 1);
    expect((await (await rig.open()).request({ type: FLUSH })).error).toBe(0);
  });

  it('that stall before they choose an export never keep another out: the oldest goes', async () => {
    rig = await NbdRig.start(new SparseDevice(1 * MiB), { maxConnections: 4, tcp: true });
    const user = await rig.open();
    const stalled = [await rig.connect(), await rig.connect(), await rig.connect()];
    for (const one of stalled) await one.greet();
    const late = await rig.open();
    expect((await stalled[0]!.readToEnd()).length).toBe(0);
    expect(stalled.slice(1).map((one) => one.isEnded)).toEqual([false, false]);
    for (let i = 0; i < 20; i += 1) await (await rig.open()).destroy();
    expect((await late.request({ type: FLUSH })).error).toBe(0);
    expect((await user.request({ type: FLUSH })).error).toBe(0);
    expect(rig.problems()).toEqual(['too many NBD connections: dropped the oldest handshake for a new one']);
  });

  it('of one address have a limit of their own, those of a unix socket have not', async () => {
    const limits = { maxConnections: 10, maxConnectionsPerAddress: 2 };
    rig = await NbdRig.start(new SparseDevice(1 * MiB), { ...limits, tcp: true });
    await rig.open();
    const second = await rig.open();
    expect((await (await rig.connect()).readToEnd()).length).toBe(0);
    expect(rig.log.lines().find((line) => line.level === 40)).toMatchObject({
      limit: 'address',
      peer: '127.0.0.1',
    });
    await second.destroy();
    await waitUntil(() => rig.server.connectionCount === 1);
    await rig.open();
    await rig.stop();
    rig = await NbdRig.start(new SparseDevice(1 * MiB), limits);
    for (let i = 0; i < 5; i += 1) await rig.open();
  });

  it('that are idle stay, unless a limit was asked for; busy ones stay even then', async () => {
    const device = new HeldDevice(new SparseDevice(1 * MiB));
    rig = await NbdRig.start(device, { idleTimeoutMs: 400 });
    const [idle, waiting, busy] = [await rig.open(), await rig.open(), await rig.open()];
    const startedAt = performance.now();
    waiting.send(requestBytes({ type: FLUSH }));
    await waitUntil(() => device.waiting.length === 1);
    let busyRequests = 0;
    while (!idle.isEnded) {
      expect((await busy.request({ type: READ, length: 0 })).error).toBe(0);
      busyRequests += 1;
      await settled();
      if (performance.now() - startedAt > 10_000) throw new Error('the idle client is still there');
    }
    expect(performance.now() - startedAt).toBeGreaterThan(390);
    expect(busyRequests).toBeGreaterThan(2);
    expect([waiting.isEnded, busy.isEnded]).toEqual([false, false]);
    device.holding = false;
    await device.releaseAll();
    expect((await waiting.readReply()).error).toBe(0);
  });

  it('that choose no export in time are closed; the others are not', async () => {
    rig = await NbdRig.start(new SparseDevice(1 * MiB), { handshakeTimeoutMs: 100, tcp: true });
    const good = await rig.open();
    const silent = await rig.connect();
    const slow = await rig.connect();
    await slow.greet();
    slow.send(Buffer.from('IHAVEOPT'));
    expect((await silent.readToEnd()).length).toBe(18);
    expect((await slow.readToEnd()).length).toBe(0);
    expect(rig.problems()).toEqual(['NBD handshake timed out', 'NBD handshake timed out']);
    expect((await good.request({ type: FLUSH })).error).toBe(0);
  });
});

describe('a client that sends more than the device can take', () => {
  it('is not read beyond the limit of requests, and all are answered in the end', async () => {
    const device = new HeldDevice(new SparseDevice(1 * MiB));
    rig = await NbdRig.start(device);
    const client = await rig.open();
    const count = MAX_IN_FLIGHT_REQUESTS + 500;
    client.send(Buffer.concat(Array.from({ length: count }, () => requestBytes({ type: FLUSH }))));
    await waitUntil(() => device.waiting.length === MAX_IN_FLIGHT_REQUESTS);
    await settled();
    expect(device.waiting.length).toBe(MAX_IN_FLIGHT_REQUESTS);
    const other = await rig.open();
    other.send(requestBytes({ type: FLUSH, cookie: 7n }));
    await waitUntil(() => device.waiting.length === MAX_IN_FLIGHT_REQUESTS + 1);
    await device.waiting.at(-1)!.release();
    expect((await other.readReply()).cookie).toBe(7n);
    device.holding = false;
    await device.releaseAll();
    expect((await client.read(count * 16)).length).toBe(count * 16);
  });

  it('is not read beyond the limit of bytes', async () => {
    const device = new HeldDevice(new SparseDevice(64 * MiB));
    rig = await NbdRig.start(device);
    const client = await rig.open();
    const blockBytes = 4 * MiB;
    const limit = MAX_IN_FLIGHT_BYTES / blockBytes;
    for (let i = 0; i < limit + 5; i += 1) {
      client.send(requestBytes({ type: WRITE, offset: i * 512, data: Buffer.alloc(blockBytes, i) }));
    }
    await waitUntil(() => device.waiting.length === limit);
    await settled();
    expect(device.waiting.length).toBe(limit);
    expect(sharedPool.liveBytes).toBeLessThan(MAX_IN_FLIGHT_BYTES + 2 * blockBytes + MAX_RECEIVE_BYTES);
    device.holding = false;
    await device.releaseAll();
    await client.read((limit + 5) * 16);
  });
});

describe('a client that does not read its replies', () => {
  it('holds a bounded amount, blocks nobody, and gets them all when it reads', async () => {
    rig = await NbdRig.start(new SparseDevice(64 * MiB));
    const slow = await rig.open();
    const good = await rig.open();
    slow.socket.pause();
    const lengths = Array.from({ length: 400 }, (_, i) => (i % 2 ? 1 * MiB : 4 * KiB));
    slow.send(
      Buffer.concat(lengths.map((length, i) => requestBytes({ type: READ, cookie: BigInt(i), length }))),
    );
    await waitUntil(() => sharedPool.liveBytes > MAX_UNSENT_BYTES, { what: 'the replies to pile up' });
    for (let i = 0; i < 20; i += 1) expect((await good.request({ type: READ, length: 4096 })).error).toBe(0);
    expect(sharedPool.liveBytes).toBeLessThan(MAX_UNSENT_BYTES + 4 * MiB);
    slow.socket.resume();
    for (let i = 0; i < lengths.length; i += 1) {
      expect((await slow.readReply()).cookie).toBe(BigInt(i));
      await slow.read(lengths[i]!);
    }
  });

  it('and goes away leaves nothing behind', async () => {
    rig = await NbdRig.start(new SparseDevice(64 * MiB), { tcp: true });
    const slow = await rig.open();
    slow.socket.pause();
    for (let i = 0; i < 100; i += 1) slow.send(requestBytes({ type: READ, length: 1 * MiB }));
    await waitUntil(() => sharedPool.liveBytes > MAX_UNSENT_BYTES / 2);
    slow.socket.resetAndDestroy();
    await rig.idle();
  });
});

it('a flood of requests does not keep the others waiting', async () => {
  rig = await NbdRig.start(new SparseDevice(1 * MiB));
  const flood = await rig.open();
  const good = await rig.open();
  const burst = Buffer.concat(Array.from({ length: 20_000 }, () => requestBytes({ type: FLUSH })));
  flood.send(burst);
  const startedAt = performance.now();
  await good.request({ type: FLUSH });
  expect(performance.now() - startedAt).toBeLessThan(1000);
  await flood.read(20_000 * 16);
});
