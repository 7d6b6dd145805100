// What the system tells of sockets: who is there, and how long a dead one is waited for.
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { KiB } from '../../../src/base/limits.ts';
import {
  deadPeerTimers,
  peerCredentials,
  sendBufferBytes,
  socketKind,
  widenUnixSocket,
} from '../../../src/nbd/socket-options.ts';
import { congestionControl, descriptorOf } from '../../../src/transport/local-peer.ts';
import { NbdRig } from '../../support/nbd-rig.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { SparseDevice } from '../../support/test-devices.ts';

const own = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() };

/** Both ends of a connection, and what closes them. */
async function pair(kind: 'unix' | 'tcp') {
  const directory = tempDir();
  const server = createServer();
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const path = directory.file('s');
  await new Promise<void>((resolve) => {
    if (kind === 'unix') server.listen(path, resolve);
    else server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const client = typeof address === 'string' ? connect(path) : connect(address!.port, '127.0.0.1');
  const socket = await accepted;
  return {
    fd: descriptorOf(socket),
    listener: descriptorOf(server)!,
    [Symbol.asyncDispose]: async () => {
      client.destroy();
      socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      directory.remove();
    },
  };
}

describe('the other end', () => {
  it('of a unix socket is known', async () => {
    await using ends = await pair('unix');
    expect(peerCredentials(ends.fd)).toEqual(own);
    // Without native access, nothing is.
    expect(peerCredentials(ends.fd, { getSocketOption: () => undefined } as never)).toBeUndefined();
    expect(peerCredentials(undefined)).toBeUndefined();
  });

  it('of a TCP socket is not', async () => {
    await using ends = await pair('tcp');
    expect(peerCredentials(ends.fd)).toBeUndefined();
  });

  it('of a TCP socket has its buffer left alone', async () => {
    await using ends = await pair('tcp');
    const before = sendBufferBytes(ends.fd!);
    widenUnixSocket(ends.fd);
    expect(sendBufferBytes(ends.fd!)).toBe(before);
  });

  it('is told apart by what it can do', async () => {
    await using ends = await pair('unix');
    expect([socketKind(ends.listener), socketKind(ends.fd!)]).toEqual(['listening', 'connected']);
    expect(socketKind(2000)).toBe('no-socket');
  });
});

describe('the server', () => {
  let rig: NbdRig;
  afterEach(() => rig.stop());

  it('logs who uses an export by a unix socket', async () => {
    rig = await NbdRig.start(new SparseDevice(64 * KiB));
    await rig.open();
    const line = rig.log.lines().find((one) => one.msg === 'NBD client connected');
    expect(line).toMatchObject({ ...own, peer: 'unix', export: 'disk' });
  });

  it('has room for large replies to a client of a unix socket', async () => {
    const before = new Set(openSockets());
    rig = await NbdRig.start(new SparseDevice(64 * KiB));
    await rig.open();
    const sizes = openSockets().flatMap((fd) => (before.has(fd) ? [] : [sendBufferBytes(fd)]));
    // Our end alone; a system may allow less than we ask for, but doubles it.
    expect(sizes).toHaveLength(2);
    expect(Math.max(...sizes)).toBeGreaterThan(1.5 * Math.min(...sizes));
  });

  it('gives up on a TCP peer that is gone after two minutes', async () => {
    const seen: number[][] = [];
    const before = new Set(openSockets());
    rig = await NbdRig.start(new SparseDevice(64 * KiB), { tcp: true });
    await rig.open();
    for (const fd of openSockets()) if (!before.has(fd)) seen.push(deadPeerTimers(fd));
    // Idle seconds, seconds between probes, probes, milliseconds without an acknowledgement.
    expect(seen).toContainEqual([30, 15, 6, 120_000]);
  });
});

describe('connections within this machine', () => {
  let rig: NbdRig;
  afterEach(() => rig.stop());

  it('are never paced', async () => {
    const before = new Set(openSockets());
    rig = await NbdRig.start(new SparseDevice(64 * KiB), { tcp: true });
    await rig.open();
    const mine = openSockets().filter((fd) => !before.has(fd));
    // The client's end keeps what the system has, whatever that is.
    expect(
      mine.map((fd) => congestionControl(fd)).filter((name) => !name?.startsWith('bbr')).length,
    ).toBeGreaterThan(0);
  });
});

/** Descriptors below 1000 that are connected sockets of this process. */
function openSockets(): number[] {
  return Array.from({ length: 1000 }, (_, fd) => fd).filter((fd) => socketKind(fd) === 'connected');
}
