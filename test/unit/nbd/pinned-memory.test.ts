// Small requests that keep large memory: a device that is slow has many in hand, each in a buffer of its own. What a
// connection holds must be bounded by the size of the buffers, not of the requests in them.
import { afterEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { BlockError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { MAX_HELD_BYTES, MAX_IN_FLIGHT_REQUESTS, MAX_UNSENT_BYTES } from '../../../src/nbd/limits.ts';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { MAX_RECEIVE_BYTES } from '../../../src/transport/receive-buffer.ts';
import { type FakeEngine, openOnFakeEngine } from '../../support/fake-engine.ts';
import { clientFlagsBytes, infoData, optionBytes, requestBytes } from '../../support/raw-nbd-client.ts';
import { HeldDevice, SparseDevice, settled } from '../../support/test-devices.ts';

const { READ, WRITE } = NBD_CMD;
const SIZE = 64 * MiB;
const HELLO = Buffer.concat([clientFlagsBytes(), optionBytes(7, infoData(''))]);

afterEach(() => expect(sharedPool.liveBytes).toBe(0));

async function leave(engine: FakeEngine, device: HeldDevice): Promise<void> {
  device.holding = false;
  engine.destroy();
  await settled();
  await device.releaseAll();
  await settled();
}

/** Fills what the server receives into without anything of it reaching the device. */
const filler = requestBytes({ type: WRITE, offset: SIZE, data: Buffer.alloc(1 * MiB) });

describe('requests that wait for the device', () => {
  it('hold no more receive buffers than the limit, however small they are', async () => {
    const device = new HeldDevice(new SparseDevice(SIZE));
    const { engine } = openOnFakeEngine(device);
    engine.arrive(HELLO);
    engine.take();
    for (let i = 0; i < MAX_IN_FLIGHT_REQUESTS - 1 && !engine.isPaused; i += 1) {
      engine.arrive(requestBytes({ type: WRITE, cookie: BigInt(i), data: Buffer.alloc(1, i) }));
      engine.arrive(filler);
      engine.take();
    }
    expect(sharedPool.liveBytes).toBeLessThanOrEqual(MAX_HELD_BYTES + 2 * MAX_RECEIVE_BYTES);
    expect(engine.isPaused).toBe(true);
    const inHand = device.waiting.length;
    await device.releaseAll();
    engine.take();
    expect(engine.isPaused, 'goes on when they are answered').toBe(false);
    expect(inHand).toBeGreaterThan(10);
    await leave(engine, device);
  });

  it('hold no more reply buffers than the limit, when others come back before them', async () => {
    const device = new HeldDevice(new SparseDevice(SIZE));
    const { engine } = openOnFakeEngine(device);
    engine.arrive(HELLO);
    engine.take();
    for (let i = 0; i < MAX_IN_FLIGHT_REQUESTS - 1 && !engine.isPaused; i += 1) {
      device.holding = true;
      engine.arrive(requestBytes({ type: READ, length: 1 }));
      device.holding = false;
      for (let k = 0; k < 3; k += 1) engine.arrive(requestBytes({ type: READ, length: 100 * KiB }));
      engine.take();
    }
    expect(sharedPool.liveBytes).toBeLessThanOrEqual(MAX_HELD_BYTES + 2 * MAX_RECEIVE_BYTES);
    expect(engine.isPaused).toBe(true);
    await device.releaseAll();
    engine.take();
    expect(engine.isPaused).toBe(false);
    await leave(engine, device);
  });

  it('leave no buffers behind the small replies of those that failed', async () => {
    const device = new HeldDevice(new SparseDevice(SIZE));
    const { engine } = openOnFakeEngine(device);
    engine.arrive(HELLO);
    engine.take();
    // The client takes nothing.
    for (let i = 0; i < 2000 && !engine.isPaused; i += 1) {
      engine.arrive(requestBytes({ type: READ, length: 100 * KiB }));
      await device.waiting[0]?.fail(new BlockError('EIO', 'broken'));
    }
    expect(sharedPool.liveBytes).toBeLessThanOrEqual(MAX_UNSENT_BYTES + MAX_HELD_BYTES);
    engine.take();
    await settled();
    expect(engine.isPaused).toBe(false);
    await leave(engine, device);
  });
});
