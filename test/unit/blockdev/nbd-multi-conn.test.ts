// Several connections to one server: requests spread over them, and the loss of one that loses and reorders nothing.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB } from '../../../src/base/limits.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { OrderedDevice } from '../../../src/blockdev/ordered-device.ts';
import { NBD_CMD, NBD_ERROR, NBD_FLAG_CAN_MULTI_CONN } from '../../../src/nbdwire/constants.ts';
import { DiskModel, pattern } from '../../support/disk-model.ts';
import { operationBatches, runBatch } from '../../support/random-operations.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { ALL_FLAGS, FakeNbdServer, type FakeRequest } from './nbd-fake-server.ts';
import { later, type Opened, open, startServer } from './nbd-harness.ts';

const MULTI = ALL_FLAGS | NBD_FLAG_CAN_MULTI_CONN;

/** Opens, and waits until all connections carry requests. */
async function openAll(server: FakeNbdServer, connections: number): Promise<Opened> {
  const opened = await open(server.uri, { connections });
  await waitUntil(() => opened.device.connections === connections, { what: 'connections', intervalMs: 1 });
  return opened;
}

/** Holds every request that arrives from now on. */
function holdAll(server: FakeNbdServer): FakeRequest[] {
  const held: FakeRequest[] = [];
  server.intercept = (request) => {
    if (request.type === NBD_CMD.DISC) return false;
    held.push(request);
    return true;
  };
  return held;
}

const writes = (device: BlockDevice, count: number): Array<Promise<void>> =>
  Array.from({ length: count }, (_, i) => Promise.resolve(device.write(i * 4096, pattern(4096, i), false)));

describe('several connections', () => {
  it('are made where the server allows them, and only there', async () => {
    const server = await startServer({ flags: MULTI });
    await openAll(server, 3);
    expect(server.connections).toBe(3);
    const single = await startServer();
    const { device } = await open(single.uri, { connections: 3 });
    await device.read(0, Buffer.alloc(512));
    expect([device.connections, single.connections]).toEqual([1, 1]);
  });

  it('share what is to be done', async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 4);
    const held = holdAll(server);
    const all = writes(device, 32);
    await server.arrived(32);
    for (const connection of [0, 1, 2, 3]) {
      expect(held.filter((request) => request.connection === connection)).toHaveLength(8);
    }
    for (const request of held) server.serve(request);
    await Promise.all(all);
  });

  it('leave nothing behind when one of them is slow', async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 2);
    server.intercept = (request) => request.connection === 1 && request.offset === 4096;
    const stuck = writes(device, 2);
    await server.arrived(2);
    for (let i = 2; i < 40; i += 1) await device.write(i * 4096, pattern(4096, i), false);
    server.serve(server.requests.find((request) => request.connection === 1 && request.offset === 4096)!);
    await Promise.all(stuck);
  });

  it('are done without when the server takes no more of them', async () => {
    const server = await startServer({ flags: MULTI });
    server.takeOver = (socket, number) => {
      if (number > 0) socket.destroy();
      return number > 0;
    };
    const { device } = await open(server.uri, { connections: 4 });
    await waitUntil(() => server.connections >= 4, { what: 'attempts' });
    await Promise.all(writes(device, 8));
    expect(device.connections).toBe(1);
    expect(server.of(NBD_CMD.WRITE).every((request) => request.connection === 0)).toBe(true);
  });

  it('are done without when they lead to another export', async () => {
    const server = await startServer({ flags: MULTI });
    server.takeOver = (_socket, number) => {
      if (number === 1) server.minBlockBytes = 4096;
      return false;
    };
    const { device, lines } = await open(server.uri, { connections: 2 });
    await waitUntil(() => lines.length > 0, { what: 'the warning' });
    expect(lines[0]!.msg).toContain('another export');
    await Promise.all(writes(device, 4));
    expect(device.connections).toBe(1);
  });

  it('are all ended by close, with one flush for all of them', async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 3);
    await Promise.all(writes(device, 9));
    await device.close();
    expect(server.of(NBD_CMD.FLUSH)).toHaveLength(1);
    expect(server.of(NBD_CMD.DISC)).toHaveLength(3);
    expect(server.durable.equals(server.cached)).toBe(true);
    await waitUntil(() => server.openConnections === 0, { what: 'the connections to end' });
  });
});

describe('the loss of one of several connections', () => {
  it('renews all: the others finish what is on its way, and nothing new is sent before the replay', async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 2);
    await device.write(65536, pattern(4096, 99), false);
    const held = holdAll(server);
    const all = writes(device, 4);
    await waitUntil(() => held.length === 4, { what: 'the requests' });
    const [lost, kept] = [0, 1].map((number) => held.filter((request) => request.connection === number));
    lost![0]!.socket.destroy();
    await waitUntil(() => device.linkState === 'leaving', { what: 'the loss', intervalMs: 1 });
    const late = Promise.resolve(device.write(32768, pattern(4096, 7), false));
    server.intercept = () => false;
    for (const request of kept!) server.serve(request);
    await Promise.all([...all, late]);
    const after = server.requests.filter((request) => request.connection >= 2);
    // What was answered and may be forgotten goes first: the first write, and those that the good connection finished.
    const replayed = [65536, ...kept!.map((request) => request.offset)];
    const again = lost!.map((request) => request.offset);
    expect(after.map((request) => request.offset)).toEqual([...replayed, ...again, 32768]);
    expect(server.log.filter((line) => line.startsWith('DISC'))).toHaveLength(1);
    await waitUntil(() => device.connections === 2, { what: 'both connections' });
  });

  it('does not wait for ever for the others', { timeout: 20_000 }, async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 2);
    const held = holdAll(server);
    const all = writes(device, 2);
    await waitUntil(() => held.length === 2, { what: 'the requests' });
    server.intercept = () => false;
    held.find((request) => request.connection === 1)!.socket.destroy();
    await Promise.all(all);
    expect(server.requests.filter((request) => request.connection >= 2)).toHaveLength(2);
  });

  it('is what ESHUTDOWN on one of them leads to as well', async () => {
    const server = await startServer({ flags: MULTI });
    const { device } = await openAll(server, 3);
    server.intercept = (request) => {
      if (request.connection !== 1 || request.type !== NBD_CMD.WRITE) return false;
      request.reply(NBD_ERROR.ESHUTDOWN);
      return true;
    };
    await Promise.all(writes(device, 12));
    expect(server.connections).toBeGreaterThan(3);
    await device.flush();
    for (let i = 0; i < 12; i += 1) {
      expect(server.durable.subarray(i * 4096, (i + 1) * 4096).equals(pattern(4096, i)), `${i}`).toBe(true);
    }
  });

  it('loses and reorders nothing, whatever is cut and whenever the server dies', {
    timeout: 60_000,
  }, async () => {
    const sizeBytes = 128 * KiB;
    const events = fc.array(fc.tuple(fc.nat(60), fc.boolean()), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(operationBatches(sizeBytes, 8), events, async (batches, moments) => {
        const server = await new FakeNbdServer({ sizeBytes, flags: MULTI }).start();
        later(() => server.stop());
        const opened = await open(server.uri, { unflushedBytes: 64 * KiB, maxInFlight: 4, connections: 3 });
        const device = new OrderedDevice(opened.device);
        const model = new DiskModel(sizeBytes);
        const at = new Map(moments);
        let count = 0;
        let crashing: Promise<void> = Promise.resolve();
        server.intercept = (request) => {
          count += 1;
          const dies = at.get(count);
          if (dies === undefined || request.type === NBD_CMD.DISC) return false;
          if (dies) {
            crashing = crashing.then(async () => {
              await server.crash();
              await server.start();
            });
          } else request.socket.destroy();
          // The request is lost with its answer: half of the time it was carried out.
          if (count % 2 === 1) server.execute(request);
          return true;
        };
        for (const batch of batches) await runBatch(device, model, batch);
        await device.flush();
        await crashing;
        expect(model.firstDifference(server.durable)).toBe(-1);
        await device.close();
        await server.stop();
      }),
      { numRuns: 40, interruptAfterTimeLimit: 30_000 },
    );
  });
});
