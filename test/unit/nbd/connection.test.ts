// One connection's memory and patience, without a socket: what it holds, when it stops reading, how long it lingers.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { MiB } from '../../../src/base/limits.ts';
import { LINGER_MS } from '../../../src/nbd/limits.ts';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { MAX_RECEIVE_BYTES } from '../../../src/transport/receive-buffer.ts';
import { type FakeEngine, openOnFakeEngine } from '../../support/fake-engine.ts';
import { clientFlagsBytes, infoData, optionBytes, requestBytes } from '../../support/raw-nbd-client.ts';
import { HeldDevice, SparseDevice } from '../../support/test-devices.ts';

const { READ, WRITE, DISC, FLUSH } = NBD_CMD;
const HELLO = Buffer.concat([clientFlagsBytes(), optionBytes(7, infoData(''))]);

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
});
afterEach(() => {
  vi.useRealTimers();
  expect(sharedPool.liveBytes).toBe(0);
});

function greeted(engine: FakeEngine): void {
  engine.arrive(HELLO);
  engine.take();
}

async function end(engine: FakeEngine): Promise<void> {
  engine.destroy();
  await new Promise((resolve) => setImmediate(resolve));
}

describe('the memory of a connection', () => {
  it('is small while it is idle', async () => {
    const { engine } = openOnFakeEngine(new SparseDevice(1 * MiB));
    greeted(engine);
    engine.arrive(requestBytes({ type: READ, length: 100_000 }));
    engine.take();
    expect(sharedPool.liveBytes).toBe(64 * 1024);
    await end(engine);
  });

  it('holds no room for a next payload that nobody announced', async () => {
    const device = new HeldDevice(new SparseDevice(64 * MiB));
    const { engine } = openOnFakeEngine(device);
    greeted(engine);
    for (let i = 0; i < 2; i += 1) engine.arrive(requestBytes({ type: WRITE, data: Buffer.alloc(32 * MiB) }));
    expect(engine.isPaused).toBe(true);
    expect(sharedPool.liveBytes).toBeLessThanOrEqual(64 * MiB + MAX_RECEIVE_BYTES);
    await end(engine);
    await device.releaseAll();
  });
});

describe('the patience of a connection', () => {
  it('ends with the handshake that takes too long', async () => {
    const { engine, connection } = openOnFakeEngine(new SparseDevice(1 * MiB), 1000);
    engine.arrive(clientFlagsBytes());
    vi.advanceTimersByTime(999);
    expect(engine.isClosed).toBe(false);
    vi.advanceTimersByTime(1);
    expect(engine.isClosed).toBe(true);
    await end(engine);
    expect(connection.state).toBe('dead');
  });

  it('does not end with a handshake that is over', async () => {
    const { engine } = openOnFakeEngine(new SparseDevice(1 * MiB), 1000);
    greeted(engine);
    vi.advanceTimersByTime(3_600_000);
    expect(engine.isClosed).toBe(false);
    await end(engine);
  });

  it('lasts while a client that said goodbye still takes its replies', async () => {
    const { engine } = openOnFakeEngine(new SparseDevice(1 * MiB));
    greeted(engine);
    engine.arrive(requestBytes({ type: READ, length: 4096 }));
    engine.arrive(Buffer.concat([requestBytes({ type: FLUSH }), requestBytes({ type: DISC })]));
    expect(engine.hasEnded).toBe(true);
    vi.advanceTimersByTime(LINGER_MS - 1);
    engine.take();
    vi.advanceTimersByTime(LINGER_MS - 1);
    expect(engine.isClosed).toBe(false);
    vi.advanceTimersByTime(1);
    expect(engine.isClosed).toBe(true);
    await end(engine);
  });

  it('ends sooner when the server says so', async () => {
    const { engine, connection } = openOnFakeEngine(new SparseDevice(1 * MiB));
    greeted(engine);
    engine.arrive(requestBytes({ type: DISC }));
    connection.finish(100);
    vi.advanceTimersByTime(100);
    expect(engine.isClosed).toBe(true);
    await end(engine);
  });

  it('reads again when it ends, so that it sees the client go', async () => {
    const device = new HeldDevice(new SparseDevice(64 * MiB));
    const { engine, connection } = openOnFakeEngine(device);
    greeted(engine);
    for (let i = 0; i < 2; i += 1) engine.arrive(requestBytes({ type: WRITE, data: Buffer.alloc(32 * MiB) }));
    expect(engine.isPaused).toBe(true);
    connection.finish(LINGER_MS);
    expect(engine.isPaused).toBe(false);
    expect(engine.arrive(Buffer.alloc(5000, 0xff))).toBe(0);
    expect(engine.hasEnded).toBe(false);
    await device.releaseAll();
    expect(engine.hasEnded).toBe(true);
    engine.take();
    await end(engine);
  });
});
