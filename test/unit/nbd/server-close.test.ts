// How the server goes down: in order, whatever its clients and its devices do, and never later than it promised.
import { existsSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { NBD_CMD, NBD_ERROR } from '../../../src/nbdwire/constants.ts';
import { NbdRig } from '../../support/nbd-rig.ts';
import { infoData, RawNbdClient, requestBytes } from '../../support/raw-nbd-client.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  RecorderDevice,
  SparseDevice,
} from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, FLUSH } = NBD_CMD;
const { OK, ESHUTDOWN } = NBD_ERROR;

let rig: NbdRig;
afterEach(() => rig.stop());

describe('closing the server', () => {
  it('answers what is in flight, refuses what is new, flushes, and closes', async () => {
    const recorder = new RecorderDevice(new SparseDevice(1 * MiB));
    const device = new HeldDevice(recorder);
    rig = await NbdRig.start(device);
    const client = await rig.open();
    client.send(requestBytes({ type: WRITE, cookie: 1n, data: Buffer.alloc(512, 1) }));
    await waitUntil(() => device.waiting.length === 1);
    const closed = rig.server.close();
    expect(rig.server.close()).toBe(closed);
    client.send(requestBytes({ type: READ, cookie: 2n, length: 512 }));
    client.send(requestBytes({ type: WRITE, cookie: 3n, data: Buffer.alloc(100_000, 3) }));
    client.send(requestBytes({ type: 99, cookie: 4n }));
    for (const cookie of [2n, 3n, 4n]) expect(await client.readReply()).toEqual({ error: ESHUTDOWN, cookie });
    expect(await isPending(closed)).toBe(true);
    await device.waiting[0]!.release();
    expect(await client.readReply()).toEqual({ error: OK, cookie: 1n });
    await waitUntil(() => device.lines()[0] === 'flush', { what: 'the last flush' });
    expect(client.isEnded).toBe(false);
    device.holding = false;
    await device.releaseAll();
    expect((await client.readToEnd()).length).toBe(0);
    client.socket.end();
    await closed;
    expect(recorder.lines()).toEqual(['write 0+512', 'flush']);
    expect(recorder.closes).toBe(0);
  });

  it('flushes every export once, and says which one failed', async () => {
    const good = new RecorderDevice(new SparseDevice(1 * MiB));
    const bad = new FaultDevice(new SparseDevice(1 * MiB));
    bad.fail({ ops: ['flush'] });
    rig = await NbdRig.start([
      { name: 'bad', device: bad },
      { name: 'good', device: good },
    ]);
    await rig.server.close();
    expect(good.lines()).toEqual(['flush']);
    expect(rig.log.lines().filter((line) => line.level >= 50)).toMatchObject([{ export: 'bad' }]);
  });

  it('tells clients that are choosing an export, and lets nobody in any more', async () => {
    const device = new HeldDevice(new SparseDevice(1 * MiB));
    rig = await NbdRig.start(device);
    const [busy, choosing] = [await rig.open(), await rig.connect()];
    await choosing.greet();
    busy.send(requestBytes({ type: FLUSH, cookie: 1n }));
    await waitUntil(() => device.waiting.length === 1);
    const closed = rig.server.close();
    expect((await choosing.option(7, infoData('')))[0]?.type).toBe(2 ** 31 + 7);
    await expect(RawNbdClient.connect(rig.to)).rejects.toThrow();
    device.holding = false;
    await device.releaseAll();
    await closed;
    expect(await busy.readReply()).toEqual({ error: OK, cookie: 1n });
  });

  it('removes its unix socket', async () => {
    rig = await NbdRig.start(new SparseDevice(1 * MiB));
    const { path } = rig.to as { path: string };
    expect(existsSync(path)).toBe(true);
    await rig.server.close();
    expect(existsSync(path)).toBe(false);
  });

  it.each([false, true])('is not held by a client that does not close (tcp: %s)', async (tcp) => {
    rig = await NbdRig.start(new SparseDevice(1 * MiB), { tcp });
    await rig.open();
    await rig.connect();
    const startedAt = performance.now();
    await rig.server.close();
    expect(performance.now() - startedAt).toBeLessThan(3000);
    expect(rig.server.connectionCount).toBe(0);
  });

  it('is not held by a client that does not read', async () => {
    rig = await NbdRig.start(new SparseDevice(64 * MiB), { shutdownTimeoutMs: 2000 });
    const client = await rig.open();
    client.socket.pause();
    for (let i = 0; i < 8; i += 1) client.send(requestBytes({ type: READ, length: 32 * MiB }));
    const startedAt = performance.now();
    await rig.server.close();
    expect(performance.now() - startedAt).toBeLessThan(4000);
    expect(rig.server.connectionCount).toBe(0);
  });

  it('gives up on a device that does not answer, when its time is over', async () => {
    const device = new HeldDevice(new SparseDevice(1 * MiB));
    rig = await NbdRig.start(device, { shutdownTimeoutMs: 300 });
    const client = await rig.open();
    client.send(
      requestBytes({ type: WRITE, data: Buffer.alloc(512) }),
      requestBytes({ type: READ, length: 512 }),
    );
    await waitUntil(() => device.waiting.length === 2);
    const startedAt = performance.now();
    await rig.server.close();
    expect(performance.now() - startedAt).toBeLessThan(3000);
    expect(rig.problems().join('\n')).toContain('still in flight');
    expect(rig.server.connectionCount).toBe(0);
    // The device still has its buffers: they come back when it answers.
    await device.releaseAll();
  });
});
