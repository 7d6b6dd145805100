// Who speaks what: the agent's handshake with hubs of either kind, and with what is no hub at all.
import { connect, createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import type { Agent } from '../../../src/repagent/agent.ts';
import { compressionFeatures } from '../../../src/repagent/compression.ts';
import { FEATURE_BROTLI, FEATURE_WIDE_READS } from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FakeHub, type FakeHubOptions } from '../../support/fake-hub.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { AGENT_ID, makeAgent, untilLink, untilState, writeNow } from './harness.ts';

const SIZE = 1024 * 1024;
const stops: Array<() => Promise<unknown>> = [];

afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function hub(options: FakeHubOptions = {}): Promise<FakeHub> {
  const made = await FakeHub.listen(options);
  stops.push(() => made.close());
  return made;
}

function agent(at: FakeHub | number, options = {}): Agent {
  const made = makeAgent(at, { shutdownTimeoutMs: 100, ...options });
  stops.push(() => made.close());
  return made;
}

describe('with a hub that knows the extensions', () => {
  it('reports, says HELLO after the hub did, and names its volumes dirty when started', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.protect('sdb', new MemoryDevice({ sizeBytes: 512 }));
    a.start();
    const c = await h.started(1, 2);
    await c.expect('dirty', 2);
    expect(c.messages.slice(0, 4).map((m) => m.kind)).toEqual(['reportVmVolumes', 'hello', 'dirty', 'dirty']);
    expect(c.of('reportVmVolumes')[0]).toMatchObject({ offersHello: true });
    expect(c.reports[0]).toMatchObject([
      { name: 'sda', sizeBytes: SIZE },
      { name: 'sdb', sizeBytes: 512 },
    ]);
    expect(c.of('hello')[0]).toMatchObject({ version: 1, id: AGENT_ID, name: 'vm1', pingIntervalMs: 2000 });
    expect(c.of('dirty')).toMatchObject([
      { volumeId: 101n, sequence: 1, extents: [{ offset: 0, length: SIZE }], more: false },
      { volumeId: 102n, sequence: 2, extents: [{ offset: 0, length: 512 }], more: false },
    ]);
    expect(a.status().link).toMatchObject({ hub: `127.0.0.1:${h.port}`, state: 'live', lastError: null });
  });

  it('packs only with what both sides know, and says so', async () => {
    const text = Buffer.alloc(64 * 1024, 'a row of a table; ');
    for (const [compress, features, codec] of [
      ['always', FEATURE_BROTLI, 'brotli'],
      ['always', 0, null],
      ['auto', FEATURE_BROTLI, 'brotli'],
      ['off', FEATURE_BROTLI, null],
    ] as const) {
      const h = await hub({ features });
      const a = agent(h, { compress });
      const disk = a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
      a.start();
      const c = await h.started(1, 1);
      await c.expect('dirty');
      expect(a.status().link.compression).toBe(codec);
      expect(c.of('hello')[0]!.features).toBe(FEATURE_WIDE_READS + compressionFeatures(compress));
      void disk.write(0, text, false);
      const kind = compress === 'always' && codec ? 'packed' : 'protectedWrite';
      await c.expect(kind);
      expect(c.of('packed')).toHaveLength(kind === 'packed' ? 1 : 0);
      await a.close();
      const { plainBytes, sentBytes } = a.status().link.traffic;
      expect(plainBytes - sentBytes > 50_000).toBe(kind === 'packed');
    }
  });

  it('keeps its epoch over connections, and another agent has another', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    (await h.started()).cut();
    await h.started(2);
    const b = agent(h);
    b.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    b.start();
    await h.started(3);
    const epochs = h.connections.map((c) => c.of('hello')[0]!.epoch);
    expect(epochs[0]).toBe(epochs[1]);
    expect(epochs[2]).not.toBe(epochs[0]);
  });

  it('reports again when a volume is added, and starts that one too', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    const c = await h.started();
    a.protect('sdb', new MemoryDevice({ sizeBytes: SIZE }));
    await h.started(1, 2);
    expect(c.reports[1]!.map((v) => v.name)).toEqual(['sda', 'sdb']);
    await c.expect('dirty', 2);
    const ids = c.reports[1]!.map((v) => v.volumeId);
    expect(new Set(ids).size).toBe(2);
    expect(c.reports[0]![0]!.volumeId).toBe(ids[0]);
  });

  it('passes over commands of a later version', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    const c = await h.started();
    const later = encode.encodePing('ping', 1n, 1);
    later.writeUInt16LE(200, 2);
    c.send(later, encode.encodePing('ping', 77n, 1));
    expect((await c.expect('pong'))[0]).toMatchObject({ token: 77n });
  });

  it('shows why a volume is refused, asks again, and goes on when it is accepted', async () => {
    const h = await hub({ starts: false });
    const a = agent(h, { reportRetryMs: 20 });
    const device = a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    await waitUntil(() => h.connections[0]?.of('hello').length, { what: 'HELLO' });
    const c = h.connection;
    const reported = c.reports[0]![0]!.volumeId;
    c.send(encode.encodeVolumeError(reported, 'no image is paired with sda'));
    await untilState(a, 'failed');
    expect(a.status().volumes[0]!.lastError).toBe('no image is paired with sda');
    writeNow(device, 0, 4096);
    await c.expect('reportVmVolumes', 3);
    expect(a.status().link.state).toBe('live');
    h.starts = true;
    await c.expect('dirty');
    await untilState(a, 'initial-sync');
    expect(a.status().volumes[0]!.lastError).toBeNull();
    const reports = c.reports.length;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(c.reports.length).toBe(reports);
  });

  it('passes over a volume that it never reported', async () => {
    const h = await hub();
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    const c = await h.started();
    c.start('sdz', 9n);
    c.send(encode.encodeVolumeError(1234n, 'unknown'));
    c.send(encode.encodeAck(9n, 0, 'protected', 0, 0));
    c.send(encode.encodePing('ping', 5n, 1));
    await c.expect('pong');
    expect(a.status().volumes.map((v) => v.state)).toEqual(['initial-sync']);
  });
});

describe("with a hub that knows the RFC's protocol alone", () => {
  it('sends nothing that the RFC does not know', async () => {
    const h = await hub({ mode: 'rfc' });
    const a = agent(h, { pingIntervalMs: 10, compress: 'always' });
    const device = a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    const c = await h.started();
    await untilState(a, 'initial-sync');
    const data = writeNow(device, 4096, 1024);
    void device.flush();
    writeNow(device, 0, 512);
    void device.write(65_536, Buffer.alloc(65_536, 'well compressible'), false);
    const writes = await c.expect('protectedWrite', 3);
    expect(writes[0]).toMatchObject({ volumeId: 101n, offset: 4096, length: 1024, status: 0, sequence: 0 });
    expect(writes[0]).toMatchObject({ timeUs: 0, crc32: 0, data });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(new Set(c.messages.map((m) => m.kind))).toEqual(new Set(['reportVmVolumes', 'protectedWrite']));
    expect(a.status().volumes[0]).toMatchObject({ state: 'initial-sync', lagMs: null, dirtyBytes: SIZE });
    expect(a.status().volumes[0]!.lastError).toContain("RFC's protocol");
  });

  it('is recognised by its first request too', async () => {
    const h = await hub({ mode: 'silent' });
    const a = agent(h);
    const below = new MemoryDevice({ sizeBytes: SIZE });
    below.write(0, Buffer.alloc(512, 7), false);
    a.protect('sda', below);
    a.start();
    await waitUntil(() => h.connections[0]?.reports.length, { what: 'the report' });
    const c = h.connection;
    const { volumeId } = c.reports[0]![0]!;
    c.send(encode.encodeRemoteIoRequest(1, volumeId, 0, 512, true));
    expect((await c.expect('remoteIoResponse'))[0]).toMatchObject({
      status: 0,
      sequence: 0,
      data: Buffer.alloc(512, 7),
    });
    c.start('sda', 5n);
    await untilState(a, 'initial-sync');
  });

  it('ends the connection when it turns out to know extensions after all', async () => {
    for (const frame of [
      encode.encodePing('ping', 1n, 1),
      encode.encodeHello(Buffer.alloc(16), 1n, 0, 'late'),
      encode.encodeAck(101n, 0, 'protected', 0, 0),
    ]) {
      const h = await hub({ mode: 'rfc' });
      const a = agent(h);
      a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
      a.start();
      const c = await h.started();
      await untilState(a, 'initial-sync');
      c.send(frame);
      await waitUntil(() => c.ended, { what: 'the end of the connection' });
      await h.started(2);
      await a.close();
    }
  });
});

describe('with what is no hub', () => {
  it('says so, and goes on trying, while the guest writes', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () =>
        socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'.padEnd(80, ' ')),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    stops.push(() => new Promise((resolve) => server.close(resolve)));
    const { port } = server.address() as { port: number };
    const a = agent(port);
    const device = a.protect('web', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    await waitUntil(() => a.status().link.lastError?.includes('not a repagent peer'), { what: 'the reason' });
    writeNow(device, 0, 4096);
    expect(a.status().volumes[0]).toMatchObject({ state: 'unprotected', dirtyBytes: SIZE });
  });

  it('names the address that does not answer', async () => {
    const h = await FakeHub.listen();
    const { port } = h;
    await h.close();
    const a = agent(port);
    a.start();
    await waitUntil(() => a.status().link.lastError, { what: 'the reason' });
    expect(a.status().link.lastError).toMatch(new RegExp(`^hub 127.0.0.1:${port}: .*ECONNREFUSED`));
  });

  it('ends the connection on every frame that a hub must not send, and begins anew', async () => {
    const own = makeFrames();
    for (const [what, frame] of own) {
      const h = await hub();
      const a = agent(h);
      const device = a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
      a.start();
      const c = await h.started();
      await c.expect('dirty');
      c.send(frame);
      await waitUntil(() => c.ended, { what: `the end of the connection after ${what}` });
      writeNow(device, 0, 512);
      await h.started(2);
      await a.close();
    }
  });

  it('ends the connection on a first frame that begins no conversation', async () => {
    for (const frame of [
      encode.encodePing('ping', 1n, 1),
      encode.encodeAck(1n, 0, 'protected', 0, 0),
      encode.encodeAgentShutdown(0),
      helloOfVersion(0),
    ]) {
      const h = await hub({ mode: 'silent' });
      const a = agent(h);
      a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
      a.start();
      await waitUntil(() => h.connections[0], { what: 'a connection' });
      const c = h.connection;
      c.send(frame);
      await waitUntil(() => c.ended, { what: 'the end of the connection' });
      expect(a.status().volumes[0]!.state).toBe('unprotected');
      await a.close();
    }
  });

  it('survives garbage, cut at any byte', async () => {
    const h = await hub({ mode: 'silent' });
    const a = agent(h);
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    a.start();
    const frames = Buffer.concat([
      encode.encodeHello(h.id, h.epoch, 0, 'hub'),
      encode.encodeStartProtect(1n, 'sda', null),
    ]);
    for (let bytes = 0; bytes <= frames.length; bytes += 7) {
      const before = h.connections.length;
      await waitUntil(() => h.connections.length > 0 && !h.connection.ended, {
        what: 'a connection',
        intervalMs: 1,
      });
      h.connection.send(frames.subarray(0, bytes));
      h.connection.hangUp();
      await waitUntil(() => h.connections.length > before, { what: 'another connection', intervalMs: 1 });
    }
    h.mode = 'hello';
    h.connection.cut();
    await untilState(a, 'initial-sync');
  });
});

describe('the link', () => {
  it('waits in hello for as long as the hub says nothing', async () => {
    const h = await hub({ mode: 'silent' });
    const a = agent(h, { pingIntervalMs: 5, pingDeadMs: 10 });
    a.protect('sda', new MemoryDevice({ sizeBytes: SIZE }));
    expect(a.status().link.state).toBe('idle');
    a.start();
    await untilLink(a, 'hello');
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(h.connections.length).toBe(1);
    expect(h.connection.messages.map((m) => m.kind)).toEqual(['reportVmVolumes']);
  });

  it('is not started twice, and not after close', async () => {
    const h = await hub();
    const a = agent(h);
    a.start();
    a.start();
    await waitUntil(() => h.connections.length, { what: 'a connection' });
    await a.close();
    expect(a.status().link.state).toBe('closed');
    a.start();
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(h.connections.length).toBe(1);
  });

  it('can be closed before it was started, and while it dials', async () => {
    const idle = agent(1);
    await idle.close();
    expect(idle.status().link.state).toBe('closed');
    // A full backlog leaves the attempt unanswered.
    const h = await FakeHub.listen();
    const { port } = h;
    await h.close();
    const dialing = agent(port, { reconnect: { firstMs: 50, longestMs: 50, connectTimeoutMs: 100 } });
    dialing.start();
    await dialing.close();
    expect(dialing.status().link.state).toBe('closed');
    const probe = connect(port, '127.0.0.1');
    await new Promise((resolve) => probe.once('error', resolve));
  });
});

function helloOfVersion(version: number): Buffer {
  const frame = encode.encodeHello(Buffer.alloc(16), 1n, 0, 'hub');
  frame.writeUInt32LE(version, 8);
  return frame;
}

function makeFrames(): Array<[string, Buffer]> {
  const stamp = { sequence: 1, timeUs: 1 };
  return [
    ['garbage', Buffer.alloc(100, 0x5a)],
    ['an unknown RFC command', withId(encode.encodeAgentShutdown(0), 9)],
    ['a length above the limit', withLength(encode.encodeAgentShutdown(0), 0xffffffff)],
    ['PROTECTED_WRITE', encode.encodeProtectedWrite(1n, 0, 512, -1, stamp, Buffer.alloc(0))],
    ['PROTECTED_ZERO', encode.encodeProtectedZero(1n, 0, 512, true, stamp)],
    ['PROTECTED_FLUSH', encode.encodeProtectedFlush(1n, stamp)],
    ['DIRTY', encode.encodeDirty(1n, stamp, [], false)],
    ['REPORT_VM_VOLUMES', encode.encodeReport([], true)],
    ['AGENT_SHUTDOWN', encode.encodeAgentShutdown(1)],
    ['VERIFY_REQ', encode.encodeVerifyRequest(1, 1n)],
    ['a second HELLO', encode.encodeHello(Buffer.alloc(16), 1n, 0, 'again')],
    ['an ACK of what was never sent', encode.encodeAck(101n, 5, 'protected', 0, 0)],
    ['HASH_REQ for an unknown volume', encode.encodeHashRequest(1, 55n, 0, 512)],
  ];
}

function withId(frame: Buffer, id: number): Buffer {
  frame.writeUInt16LE(id, 2);
  return frame;
}

function withLength(frame: Buffer, length: number): Buffer {
  frame.writeUInt32LE(length, 4);
  return frame;
}
