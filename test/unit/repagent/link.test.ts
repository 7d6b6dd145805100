// The connection's life: signs of life, losing it and coming back, and taking leave of the hub.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import type { Agent } from '../../../src/repagent/agent.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { captureLog } from '../../support/capture-log.ts';
import { pattern } from '../../support/disk-model.ts';
import { FakeHub, type FakeHubOptions } from '../../support/fake-hub.ts';
import { HeldDevice, settled } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { makeAgent, untilLink, untilState, writeNow } from './harness.ts';

const SIZE = 4 * MiB;
const stops: Array<() => Promise<unknown>> = [];
let liveBefore = 0;

beforeEach(() => {
  liveBefore = sharedPool.liveBytes;
});

afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await waitUntil(() => sharedPool.liveBytes === liveBefore, { what: 'every slab to be given back' });
});

async function hub(options: FakeHubOptions = {}): Promise<FakeHub> {
  const made = await FakeHub.listen(options);
  stops.push(() => made.close());
  return made;
}

function agent(at: FakeHub, options = {}): Agent {
  const made = makeAgent(at, { shutdownTimeoutMs: 100, ...options });
  stops.push(() => made.close());
  return made;
}

function disk(): MemoryDevice {
  return new MemoryDevice({ sizeBytes: SIZE });
}

/** Says that everything so far is durable and complete. */
function ackAll(h: FakeHub, a: Agent, name = 'sda'): void {
  const { sequence } = a.stats;
  h.connection.send(encode.encodeAck(h.connection.idOf(name), sequence, 'protected', SIZE, SIZE));
}

describe('signs of life', () => {
  it('are given and answered', async () => {
    const h = await hub();
    const a = agent(h, { pingIntervalMs: 10 });
    a.protect('sda', disk());
    a.start();
    const c = await h.started();
    const pings = await c.expect('ping', 3);
    expect(new Set(pings.map((ping) => ping.token)).size).toBe(pings.length);
    c.send(encode.encodePing('ping', 2n ** 64n - 1n, 1));
    const [pong] = await c.expect('pong');
    expect(pong!.token).toBe(2n ** 64n - 1n);
    expect(Math.abs(pong!.timeUs / 1000 - Date.now())).toBeLessThan(5000);
  });

  it('that stay out end the connection, and the agent comes back', async () => {
    const h = await hub();
    h.pongs = false;
    const a = agent(h, { pingIntervalMs: 10, pingDeadMs: 60 });
    const device = a.protect('sda', disk());
    a.start();
    await h.started();
    await h.started(2);
    writeNow(device, 0, 4096);
    expect(a.stats.connections).toBeGreaterThanOrEqual(1);
    h.pongs = true;
    h.connection.cut();
    await h.started(h.connections.length + 1);
    const { length } = h.connections;
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(h.connections.length).toBe(length);
    expect(a.status().link).toMatchObject({ state: 'live', lastError: null });
  });

  it('may be any bytes: a hub that sends something else is alive', async () => {
    const h = await hub();
    h.pongs = false;
    const a = agent(h, { pingIntervalMs: 20, pingDeadMs: 80 });
    a.protect('sda', disk());
    a.start();
    const c = await h.started();
    for (let beat = 0; beat < 20; beat += 1) {
      c.send(encode.encodeAck(101n, 0, 'initial-sync', beat, 100));
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
    expect(h.connections.length).toBe(1);
  });

  it('are not missed while the agent itself does not read', async () => {
    const h = await hub();
    const device = new HeldDevice(disk());
    const a = agent(h, { pingIntervalMs: 10, pingDeadMs: 50 });
    a.protect('sda', device);
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    for (let id = 0; id < 300; id += 1) c.send(encode.encodeRemoteIoRequest(id, 101n, 0, 512, true));
    await waitUntil(() => device.waiting.length === 16, { what: 'the reads' });
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(h.connections.length).toBe(1);
    device.holding = false;
    await device.releaseAll();
    await c.expect('remoteIoResponse', 300);
  });
});

describe('a hub that begins again and again', () => {
  it('loses its connection before its lists fill the memory, and the log has few lines of it', async () => {
    const h = await hub();
    const log = captureLog();
    const strange = () => log.lines().filter(({ level, msg }) => level >= 40 && msg.includes('not reported'));
    const a = agent(h, { logger: log.logger });
    a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    for (let time = 0; time < 60; time += 1) c.send(encode.encodeStartProtect(7n, 'nobody', null));
    await waitUntil(() => strange().length > 0, { what: 'the line' });
    c.send(encode.encodeStartProtect(101n, 'sda', null));
    await c.expect('dirty', 2);
    expect(h.connections.length).toBe(1);
    for (let time = 0; time < 10; time += 1) c.send(encode.encodeStartProtect(101n, 'sda', null));
    await h.started(2);
    expect(strange().length).toBe(1);
    expect(JSON.stringify(log.lines()).includes('at most 64 a volume')).toBe(true);
  });
});

describe('a hub that asks for more than it takes', () => {
  it('is not read from until it has taken something', async () => {
    const h = await hub();
    const device = new HeldDevice(disk());
    const a = agent(h);
    a.protect('sda', device);
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    const frames = Array.from({ length: 300 }, (_, id) =>
      encode.encodeRemoteIoRequest(id, 101n, 0, 512, true),
    );
    c.send(...frames, encode.encodePing('ping', 1n, 1));
    await waitUntil(() => device.waiting.length === 16, { what: 'the reads' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(c.of('pong')).toEqual([]);
    device.holding = false;
    await device.releaseAll();
    await c.expect('remoteIoResponse', 300);
    await c.expect('pong');
  });
});

describe('losing the hub', () => {
  it('waits longer and longer between attempts, up to a limit, and says it once', async () => {
    const h = await hub();
    const log = captureLog();
    h.refuses = true;
    let accepted = 0;
    const times: number[] = [];
    h.onConnection = () => {};
    const a = agent(h, {
      logger: log.logger,
      reconnect: { firstMs: 10, longestMs: 40, steadyMs: 5000, connectTimeoutMs: 1000 },
    });
    a.start();
    const endsAt = performance.now() + 400;
    while (performance.now() < endsAt) {
      await settled();
      const retries = log.lines().filter((line) => 'retryInMs' in line);
      if (retries.length > accepted) {
        accepted = retries.length;
        times.push(retries.at(-1)!.retryInMs as number);
      }
    }
    expect(accepted).toBeGreaterThan(5);
    expect(accepted).toBeLessThan(40);
    expect(Math.max(...times)).toBeLessThanOrEqual(40);
    expect(times[0]).toBeLessThanOrEqual(10);
    expect(times.slice(3).every((ms) => ms >= 20)).toBe(true);
    const warnings = log.lines().filter((line) => line.level >= 40);
    expect(warnings.length).toBeLessThanOrEqual(2);
  });

  it('leaves the guest undisturbed, and afterwards names only what the hub lacks', async () => {
    const h = await hub();
    const a = agent(h);
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    writeNow(device, 0, 4096);
    await c.expect('protectedWrite');
    ackAll(h, a);
    await untilState(a, 'protected');
    expect(a.status().volumes[0]).toMatchObject({ dirtyBytes: 0, lagMs: 0, sequence: 2, ackedSequence: 2 });
    h.refuses = true;
    c.cut();
    await untilState(a, 'degraded');
    writeNow(device, 3 * CHUNK, 4096);
    expect(a.status().volumes[0]).toMatchObject({ dirtyBytes: CHUNK });
    expect(a.status().volumes[0]!.lagMs).toBeGreaterThanOrEqual(0);
    h.resumeSequence = () => 2;
    h.refuses = false;
    const again = await h.started(2);
    expect((await again.expect('dirty'))[0]!.extents).toEqual([{ offset: 3 * CHUNK, length: CHUNK }]);
    await untilState(a, 'resync');
    h.reborn();
    again.cut();
    const other = await h.started(3);
    expect((await other.expect('dirty'))[0]!.extents).toEqual([{ offset: 0, length: SIZE }]);
    await untilState(a, 'initial-sync');
    expect(a.status().volumes[0]!.lagMs).toBeNull();
  });

  it('names what was sent and never acknowledged as received', async () => {
    const h = await hub();
    const a = agent(h);
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    c.pause();
    for (let at = 0; at < 8; at += 1) writeNow(device, at * CHUNK, 4096);
    c.cut();
    h.resumeSequence = () => 1;
    const again = await h.started(2);
    expect((await again.expect('dirty'))[0]!.extents).toEqual([{ offset: 0, length: 8 * CHUNK }]);
  });

  it('gives up a connection that is made but not answered by TCP in time', async () => {
    // 192.0.2.0/24 is reserved for documentation: nobody answers there, or the network refuses at once.
    const a = makeAgent(9, {
      hubHost: '192.0.2.1',
      reconnect: { firstMs: 5, longestMs: 5, connectTimeoutMs: 50 },
    });
    stops.push(() => a.close());
    a.start();
    await waitUntil(() => a.status().link.lastError, { what: 'the reason' });
    expect(a.status().link.lastError).toMatch(/^hub 192\.0\.2\.1:9: /);
  });
});

describe('a slow hub', () => {
  it('makes the agent fall back to its dirty map, within its limit, and come back', async () => {
    const h = await hub();
    const a = agent(h, { queueBytes: 256 * KiB });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    c.pause();
    const data = pattern(64 * KiB, 3);
    let written = 0;
    while (a.status().link.state !== 'degraded') {
      expect(device.write((written % 16) * CHUNK, data, false)).toBeUndefined();
      written += 1;
      expect(a.stats.queuedBytes).toBeLessThanOrEqual(256 * KiB);
      expect(written).toBeLessThan(1000);
      if (written % 2 === 0) await settled();
    }
    expect(a.status().volumes[0]!.state).toBe('degraded');
    writeNow(device, 20 * CHUNK, 4096);
    c.resume();
    await untilLink(a, 'live');
    const lists = await c.expect('dirty', 2);
    const named = lists.slice(1).flatMap((list) => list.extents);
    expect(named.some(({ offset, length }) => offset <= 20 * CHUNK && offset + length > 20 * CHUNK)).toBe(
      true,
    );
    expect(a.stats.overflows).toBeGreaterThan(0);
    // What the hub said before it knew of the list counts no more.
    expect(a.status().volumes[0]!.state).toBe('resync');
    c.send(encode.encodeAck(101n, lists.at(-1)!.sequence - 1, 'protected', SIZE, SIZE));
    c.send(encode.encodePing('ping', 1n, 1));
    await c.expect('pong');
    expect(a.status().volumes[0]!.state).toBe('resync');
    ackAll(h, a);
    await untilState(a, 'protected');
  });

  it("that speaks the RFC's protocol alone is left, and has to begin anew", async () => {
    const h = await hub({ mode: 'rfc' });
    const a = agent(h, { queueBytes: 64 * KiB });
    const device = a.protect('sda', disk());
    a.start();
    await h.started();
    await untilState(a, 'initial-sync');
    expect(device.write(0, pattern(128 * KiB, 1), false)).toBeUndefined();
    expect(a.status().link.state).toBe('idle');
    expect(a.status().link.lastError).toContain('is full');
    await h.started(2);
    await untilState(a, 'initial-sync');
  });
});

describe('close', () => {
  it('sends what is queued, waits for the acknowledgement, says goodbye, and comes to an end', async () => {
    const h = await hub();
    const a = agent(h, { shutdownTimeoutMs: 5000 });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    for (let at = 0; at < 100; at += 1) writeNow(device, at * 4096, 4096);
    const closing = a.close();
    expect(a.close()).toBe(closing);
    await c.expect('protectedWrite', 100);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(c.of('agentShutdown')).toEqual([]);
    expect(a.status().link.state).toBe('closing');
    ackAll(h, a);
    await closing;
    expect((await c.expect('agentShutdown'))[0]).toMatchObject({ sequence: 101 });
    expect(c.messages.at(-1)!.kind).toBe('agentShutdown');
    expect(a.status().link.state).toBe('closed');
    expect(a.status().volumes[0]!.dirtyBytes).toBe(0);
    writeNow(device, 0, 4096);
    expect(a.status().volumes[0]!.dirtyBytes).toBe(CHUNK);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(h.connections.length).toBe(1);
  });

  it('waits no longer than it may, and says goodbye when at least everything has left', async () => {
    const h = await hub();
    const a = agent(h, { shutdownTimeoutMs: 60 });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    writeNow(device, 0, 4096);
    const began = performance.now();
    await a.close();
    expect(performance.now() - began).toBeLessThan(1000);
    expect((await c.expect('agentShutdown'))[0]).toMatchObject({ sequence: 2 });
  });

  it('does not wait for the end of an initial sync: the hub acknowledges nothing before it', async () => {
    const h = await hub();
    const a = agent(h, { shutdownTimeoutMs: 60_000 });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    writeNow(device, 0, 4096);
    await a.close();
    expect((await c.expect('agentShutdown'))[0]).toMatchObject({ sequence: 2 });
  });

  it('says no goodbye when something could not be sent', async () => {
    const h = await hub();
    const a = agent(h, { shutdownTimeoutMs: 100, queueBytes: 64 * MiB });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    c.pause();
    for (let at = 0; at < 60; at += 1) void device.write(0, Buffer.alloc(MiB, at), false);
    const closing = a.close();
    // Too late: what it gets now must not end with a goodbye.
    await new Promise((resolve) => setTimeout(resolve, 250));
    c.resume();
    await closing;
    await waitUntil(() => c.ended, { what: 'the end' });
    expect(c.of('agentShutdown')).toEqual([]);
    expect(a.stats.queuedBytes).toBe(0);
    expect(a.status().volumes[0]!.dirtyBytes).toBe(SIZE);
  });

  it('says goodbye to an RFC hub as soon as everything has left', async () => {
    const h = await hub({ mode: 'rfc' });
    const a = agent(h, { shutdownTimeoutMs: 5000 });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await untilState(a, 'initial-sync');
    writeNow(device, 0, 4096);
    const began = performance.now();
    await a.close();
    expect(performance.now() - began).toBeLessThan(2000);
    expect(c.messages.map((message) => message.kind)).toEqual([
      'reportVmVolumes',
      'protectedWrite',
      'agentShutdown',
    ]);
    expect(c.of('agentShutdown')[0]).toMatchObject({ sequence: 0 });
  });

  it('does not wait for a volume that the hub refuses, nor for a hub that is gone', async () => {
    const h = await hub({ starts: false });
    const a = agent(h, { shutdownTimeoutMs: 5000 });
    a.protect('sda', disk());
    a.start();
    await waitUntil(() => h.connections[0]?.of('hello').length, { what: 'HELLO' });
    h.connection.send(encode.encodeVolumeError(h.connection.reports[0]![0]!.volumeId, 'no'));
    await untilState(a, 'failed');
    const began = performance.now();
    await a.close();
    const b = agent(await hub(), { shutdownTimeoutMs: 5000 });
    b.protect('sda', disk());
    b.start();
    await untilLink(b, 'live');
    const closing = b.close();
    await settled();
    stops.pop();
    await (stops.pop() as () => Promise<unknown>)();
    await closing;
    expect(performance.now() - began).toBeLessThan(3000);
  });

  it('ends a hub that does not end the connection itself', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    // It never reads the end.
    h.onMessage = (connection, message) => {
      if (message.kind === 'agentShutdown') connection.pause();
      return undefined;
    };
    await a.close();
    expect(a.status().link.state).toBe('closed');
  });

  it('brings back a volume that had fallen back before it leaves', async () => {
    const h = await hub();
    const a = agent(h, { shutdownTimeoutMs: 5000, queueBytes: 64 * KiB });
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    void device.write(0, pattern(128 * KiB, 1), false);
    expect(a.status().link.state).toBe('degraded');
    const closing = a.close();
    await c.expect('dirty', 2);
    ackAll(h, a);
    await closing;
    expect((await c.expect('agentShutdown'))[0]).toMatchObject({ sequence: 2 });
  });
});

describe('verify', () => {
  it('asks the hub and passes on what it tells', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await untilState(a, 'initial-sync');
    const seen: unknown[] = [];
    const result = a.verify('sda', (progress) => seen.push(progress));
    const [asked] = await c.expect('verifyRequest');
    expect(asked).toMatchObject({ volumeId: 101n });
    const { requestId } = asked!;
    c.send(encode.encodeVerifyResponse(requestId + 1, 101n, 0, 1, 1, []));
    c.send(encode.encodeVerifyResponse(requestId, 101n, 1, 100, SIZE, []));
    c.send(encode.encodeVerifyResponse(requestId, 101n, 0, SIZE, SIZE, [{ offset: 512, length: 1024 }]));
    expect(await result).toEqual({
      volume: 'sda',
      comparedBytes: SIZE,
      differing: [{ offset: 512, length: 1024 }],
    });
    expect(seen).toEqual([{ comparedBytes: 100, totalBytes: SIZE }]);
  });

  it('fails with what to do about it', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', disk());
    await expect(a.verify('sdb', () => {})).rejects.toThrow(OperationError);
    await expect(a.verify('sda', () => {})).rejects.toThrow('no hub replicates');
    a.start();
    const c = await h.started();
    await untilState(a, 'initial-sync');
    const failed = a.verify('sda', () => {});
    const lost = a.verify('sda', () => {});
    const [first] = await c.expect('verifyRequest', 2);
    c.send(encode.encodeVerifyResponse(first!.requestId, 101n, -1, 0, SIZE, []));
    await expect(failed).rejects.toThrow('could not verify');
    c.cut();
    await expect(lost).rejects.toThrow('ended early');
    const rfc = await hub({ mode: 'rfc' });
    const b = agent(rfc);
    b.protect('sda', disk());
    b.start();
    await untilState(b, 'initial-sync');
    await expect(b.verify('sda', () => {})).rejects.toThrow("RFC's protocol");
  });
});

describe('a volume', () => {
  it('is refused when the hub could not replicate it', async () => {
    const a = makeAgent(1);
    a.protect('sda', disk());
    expect(() => a.protect('sda', disk())).toThrow(UsageError);
    expect(() => a.protect('', disk())).toThrow(UsageError);
    expect(() => a.protect('ä'.repeat(128), disk())).toThrow(UsageError);
    expect(() => a.protect('a\0b', disk())).toThrow(UsageError);
    a.protect('ä'.repeat(127), disk());
    expect(() => a.protect('odd', new MemoryDevice({ sizeBytes: 1000 }))).toThrow(OperationError);
    expect(() => a.protect('4k', new MemoryDevice({ sizeBytes: SIZE, minBlockBytes: 4096 }))).toThrow(
      OperationError,
    );
    expect(() => makeAgent(1, { vmName: 'x'.repeat(256) })).toThrow(UsageError);
    expect(() => makeAgent(1, { agentId: Buffer.alloc(15) })).toThrow(UsageError);
    await a.close();
  });

  it('shows what the hub tells of it', async () => {
    const h = await hub();
    const a = agent(h);
    const device = a.protect('sda', disk());
    expect(a.status().volumes[0]).toMatchObject({
      name: 'sda',
      vmName: 'vm1',
      state: 'unprotected',
      sizeBytes: SIZE,
      dirtyBytes: SIZE,
      queuedBytes: 0,
      sequence: 0,
      ackedSequence: 0,
      lagMs: null,
      syncPercent: null,
      syncDoneBytes: 0,
      syncTotalBytes: 0,
      syncBytesPerSecond: null,
      syncTimeLeftMs: null,
      lastError: null,
    });
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    c.send(encode.encodeAck(101n, 0, 'initial-sync', MiB, SIZE));
    await waitUntil(() => a.status().volumes[0]!.syncPercent === 25, { what: 'the progress' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    c.send(encode.encodeAck(101n, 0, 'initial-sync', 2 * MiB, SIZE));
    await waitUntil(() => a.status().volumes[0]!.syncPercent === 50, { what: 'the progress' });
    const syncing = a.status().volumes[0]!;
    expect(syncing.syncBytesPerSecond).toBeGreaterThan(0);
    expect(syncing.syncTimeLeftMs).toBeGreaterThan(0);
    c.send(encode.encodeAck(101n, 0, 'converging', SIZE, SIZE));
    await untilState(a, 'converging');
    writeNow(device, 0, 512);
    ackAll(h, a);
    await untilState(a, 'protected');
    expect(a.status().volumes[0]).toMatchObject({ syncPercent: 100, syncTimeLeftMs: null, lagMs: 0 });
    c.send(encode.encodeAck(101n, 2, 'failed', 0, 0));
    await untilState(a, 'failed');
    c.send(encode.encodeVolumeError(101n, 'no space left on the hub'));
    await waitUntil(() => a.status().volumes[0]!.lastError === 'no space left on the hub', {
      what: 'the reason',
    });
    ackAll(h, a);
    await untilState(a, 'protected');
    expect(a.status().volumes[0]!.lastError).toBeNull();
  });

  it('can be started anew on the same connection', async () => {
    const h = await hub();
    const a = agent(h);
    const device = a.protect('sda', disk());
    a.start();
    const c = await h.started();
    await c.expect('dirty');
    ackAll(h, a);
    await untilState(a, 'protected');
    writeNow(device, 0, 512);
    c.start('sda', 300n, null);
    const lists = await c.expect('dirty', 2);
    expect(lists[1]).toMatchObject({ volumeId: 300n, extents: [{ offset: 0, length: SIZE }] });
    writeNow(device, 0, 512);
    expect((await c.expect('protectedWrite', 2))[1]).toMatchObject({ volumeId: 300n });
    await untilState(a, 'initial-sync');
  });

  it('can not share its id with another', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', disk());
    a.protect('sdb', disk());
    a.start();
    const c = await h.started(1, 2);
    await c.expect('dirty', 2);
    c.start('sdb', 101n);
    await waitUntil(() => c.ended, { what: 'the end of the connection' });
    await h.started(2, 2);
  });
});
