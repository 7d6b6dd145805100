// Listening: real ports, unix sockets of dead and living servers, and errors that say what to do.
import { spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { closeSync, existsSync, lstatSync, openSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { formatAddress, type ListenAddress } from '../../../src/nbd/listen-address.ts';
import { type NbdServer, startNbdServer } from '../../../src/nbd/server.ts';
import { applyPermissions, bindWithMode, type SocketPermissions } from '../../../src/nbd/socket-file.ts';
import { descriptorOf } from '../../../src/transport/local-peer.ts';
import { RawNbdClient } from '../../support/raw-nbd-client.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import { SparseDevice } from '../../support/test-devices.ts';

let directory: TempDir;
const servers: NbdServer[] = [];
const others: Server[] = [];

beforeEach(() => {
  directory = tempDir();
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
  for (const other of others.splice(0)) await new Promise((resolve) => other.close(resolve));
  directory.remove();
});

async function start(...listen: ListenAddress[]): Promise<NbdServer> {
  const exports = [{ name: 'disk', device: new SparseDevice(1 * MiB) }];
  const server = await startNbdServer({ exports, listen, logger: silentLogger });
  servers.push(server);
  return server;
}

/** A foreign server on a unix socket. */
async function occupy(path: string): Promise<Server> {
  const other = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => other.listen(path, resolve));
  return other;
}

async function works(to: { path: string } | { host: string; port: number }): Promise<void> {
  const client = await RawNbdClient.open(to);
  expect((await client.request({ type: 3 })).error).toBe(0);
  await client.destroy();
}

describe('listening', () => {
  it('on several addresses tells the real ones', async () => {
    const path = directory.file('s');
    const server = await start(
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
      { kind: 'unix', path },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
    const [a, b, c] = server.addresses;
    expect(b).toEqual({ kind: 'unix', path });
    for (const address of [a, c]) {
      if (address?.kind !== 'tcp') throw new Error('not a TCP address');
      expect(address.port).toBeGreaterThan(0);
      await works(address);
    }
    await works({ path });
    expect(formatAddress(b!)).toBe(`unix:${path}`);
    expect(formatAddress({ kind: 'tcp', host: '::1', port: 10809 })).toBe('[::1]:10809');
  });

  it('removes the socket of a server that died', async () => {
    const path = directory.file('s');
    // A killed process leaves its file behind.
    const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    expect(lstatSync(path).isSocket()).toBe(true);
    await start({ kind: 'unix', path });
    await works({ path });
  });

  it('does not touch the socket of a server that lives', async () => {
    const path = directory.file('s');
    others.push(await occupy(path));
    const error = await start({ kind: 'unix', path }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OperationError);
    expect((error as OperationError).message).toContain('another server listens');
    expect(existsSync(path)).toBe(true);
  });

  it('does not touch a file that is no socket', async () => {
    const path = directory.file('precious');
    writeFileSync(path, 'data');
    await expect(start({ kind: 'unix', path })).rejects.toThrow('is not a socket');
    expect(lstatSync(path).size).toBe(4);
  });

  it.each<[string, () => ListenAddress, string]>([
    [
      'a path that is too long',
      () => ({ kind: 'unix', path: `/tmp/${'x'.repeat(120)}` }),
      'longer than 107 bytes',
    ],
    [
      'a directory that is not there',
      () => ({ kind: 'unix', path: directory.file('no/s') }),
      'does not exist',
    ],
    [
      'an address of another machine',
      () => ({ kind: 'tcp', host: '192.0.2.1', port: 0 }),
      'not an address of this machine',
    ],
    [
      'a name that nobody has',
      () => ({ kind: 'tcp', host: 'no-such-host.invalid', port: 0 }),
      'host name is unknown',
    ],
    ['a descriptor that is not open', () => ({ kind: 'fd', fd: 900 }), 'descriptor 900 that was passed'],
  ])('fails on %s', async (_what, address, message) => {
    const error = await start(address()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OperationError);
    expect((error as OperationError).message).toContain(message);
  });

  it('fails on a port in use, and leaves the other addresses free', async () => {
    const first = await start({ kind: 'tcp', host: '127.0.0.1', port: 0 });
    const taken = first.addresses[0]!;
    const path = directory.file('s');
    await expect(start({ kind: 'unix', path }, taken)).rejects.toThrow('is in use');
    expect(existsSync(path)).toBe(false);
  });
});

describe('the file of a unix socket', () => {
  const mask = process.umask();
  afterEach(() => void process.umask(mask));
  // Only root can give files away; others at least go through the motions.
  const isRoot = process.getuid!() === 0;
  const [uid, gid] = isRoot ? [65_534, 65_533] : [process.getuid!(), process.getgid!()];

  it.each<[string, Partial<SocketPermissions>, number]>([
    ['no word', {}, 0o755],
    ['a mode that is wider than the umask', { mode: 0o666 }, 0o666],
    ['a mode that is narrower', { mode: 0o600 }, 0o600],
    ['an owner and a mode', { mode: 0o660, uid, gid }, 0o660],
    ['an owner alone', { uid }, 0o755],
    ['a group alone', { gid }, 0o755],
  ])('is as told: %s', async (_what, given, mode) => {
    process.umask(0o022);
    const path = directory.file('s');
    const permissions = { mode: undefined, uid: undefined, gid: undefined, ...given };
    await start({ kind: 'unix', path, permissions });
    const found = lstatSync(path);
    expect((found.mode & 0o777).toString(8)).toBe(mode.toString(8));
    if (given.uid !== undefined) expect(found.uid).toBe(given.uid);
    else expect(found.uid).toBe(process.getuid!());
    if (given.gid !== undefined) expect(found.gid).toBe(given.gid);
    expect(process.umask()).toBe(0o022);
    await works({ path });
  });

  it.each([
    [{ mode: 0o660, uid: undefined, gid: undefined }, 0o660],
    [{ mode: 0o660, uid, gid: undefined }, 0],
    [{ mode: undefined, uid: undefined, gid }, 0],
  ])('is never wider than in the end: %j', async (permissions, first) => {
    process.umask(0);
    const path = directory.file('s');
    const other = createServer();
    others.push(other);
    const mode = bindWithMode(permissions, () => {
      other.listen(path);
      return lstatSync(path).mode & 0o777;
    });
    expect(mode).toBe(first);
  });

  it('is what gets the owner, and nothing else that stands there', () => {
    const path = directory.file('precious');
    writeFileSync(path, 'data', { mode: 0o600 });
    const permissions = { mode: 0o666, uid, gid: undefined };
    expect(() => applyPermissions(path, permissions)).toThrow('not our socket');
    symlinkSync(path, directory.file('link'));
    expect(() => applyPermissions(directory.file('link'), permissions)).toThrow();
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
  });
});

describe('a descriptor that was passed', () => {
  it('is refused unless it listens', async () => {
    const path = directory.file('s');
    await start({ kind: 'unix', path });
    const client = await RawNbdClient.connect({ path });
    const fd = descriptorOf(client.socket)!;
    const error = await start({ kind: 'fd', fd }).catch((e: unknown) => e);
    expect(error).toMatchObject({ message: expect.stringContaining('does not listen') });
    expect(error).toMatchObject({ hint: expect.stringContaining('--stdio') });
    // It was left as it is.
    expect(await client.greet()).toBe(3);
    await client.destroy();
  });

  it('is refused when it is no stream socket, or none at all', async () => {
    const udp = createSocket('udp4');
    await new Promise<void>((resolve) => udp.bind(0, '127.0.0.1', resolve));
    const { fd } = (udp as unknown as { _handle: { fd: number } })._handle;
    await expect(start({ kind: 'fd', fd })).rejects.toThrow('is no stream socket');
    udp.close();
    const file = openSync(directory.file('f'), 'w');
    await expect(start({ kind: 'fd', fd: file })).rejects.toThrow('is no socket');
    closeSync(file);
  });
});

describe('exports that no client can be told of', () => {
  const device = new SparseDevice(1 * MiB);
  it.each([
    [
      'two of one name',
      [
        { name: 'a', device },
        { name: 'a', device },
      ],
    ],
    ['a name that is too long', [{ name: 'é'.repeat(128), device }]],
    ['a name with NUL', [{ name: 'a\0', device }]],
    ['a description that is too long', [{ name: 'a', description: 'x'.repeat(4097), device }]],
    ['a disk that is too large', [{ name: 'a', device: new SparseDevice(Number.MAX_SAFE_INTEGER) }]],
  ])('are refused: %s', async (_what, exports) => {
    const options = { exports, listen: [], logger: silentLogger };
    await expect(startNbdServer(options)).rejects.toBeInstanceOf(UsageError);
  });
});
