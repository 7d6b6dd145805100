// Where a server listens: addresses as options give them and as they came to be, and the care that unix sockets need.
import { readFileSync, readlinkSync } from 'node:fs';
import { lstat, stat, unlink } from 'node:fs/promises';
import { createConnection, type Server } from 'node:net';
import { dirname } from 'node:path';
import { assert } from '../base/assert.ts';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { applyPermissions, bindWithMode, type SocketPermissions } from './socket-file.ts';
import { socketKind } from './socket-options.ts';

export type ListenAddress =
  /** `port` 0 takes any free one. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string; readonly permissions?: SocketPermissions }
  /** A listening socket that this process was given, as socket activation does. */
  | { readonly kind: 'fd'; readonly fd: number };

/** An address that listens. */
export type BoundAddress = Exclude<ListenAddress, { readonly kind: 'fd' }>;

/** Longest path that fits in a socket address with its NUL, bytes. */
const MAX_UNIX_PATH_BYTES = 107;

/**
 * Makes `server` listen. The socket file of a server that is gone is removed first.
 * @throws OperationError that says why it can't, and what to do
 */
export async function listen(server: Server, address: ListenAddress): Promise<BoundAddress> {
  try {
    if (address.kind === 'unix') await clearStaleSocket(address.path);
    if (address.kind === 'fd') checkPassed(address.fd);
    await listenOnce(server, address);
  } catch (error) {
    throw error instanceof OperationError ? error : listenError(address, error);
  }
  return boundAddress(server, address);
}

export function formatAddress(address: ListenAddress): string {
  switch (address.kind) {
    case 'tcp':
      return address.host.includes(':')
        ? `[${address.host}]:${address.port}`
        : `${address.host}:${address.port}`;
    case 'unix':
      return `unix:${address.path}`;
    case 'fd':
      return `fd:${address.fd}`;
  }
}

function listenOnce(server: Server, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const listening = (): void => {
      server.off('error', reject);
      resolve();
    };
    const permissions = address.kind === 'unix' ? address.permissions : undefined;
    if (address.kind !== 'unix' || permissions === undefined) {
      server.listen(listenOptions(address), listening);
      return;
    }
    // For a path Node binds and listens inside the call.
    bindWithMode(permissions, () => server.listen(listenOptions(address), listening));
    if (!server.listening) return;
    try {
      applyPermissions(address.path, permissions);
    } catch (error) {
      server.close();
      reject(error as Error);
    }
  });
}

/** A descriptor that was passed to us must be what we take it for: the system would make another socket listen, somewhere. */
function checkPassed(fd: number): void {
  const kind = socketKind(fd);
  if (kind === 'listening' || kind === 'unknown') return;
  const found = {
    connected: 'does not listen',
    datagram: 'is no stream socket',
    'no-socket': 'is no socket',
  }[kind];
  throw new OperationError(`the descriptor ${fd} that was passed to this process ${found}`, {
    hint:
      kind === 'connected'
        ? 'a socket unit needs Accept=no; for one connected client use --stdio'
        : 'a socket unit needs ListenStream= lines only',
  });
}

function listenOptions(
  address: ListenAddress,
): { host: string; port: number } | { path: string } | { fd: number } {
  switch (address.kind) {
    case 'tcp':
      return { host: address.host, port: address.port };
    case 'unix':
      return { path: address.path };
    case 'fd':
      return { fd: address.fd };
  }
}

function boundAddress(server: Server, asked: ListenAddress): BoundAddress {
  const address = server.address();
  // Node doesn't know the path of a unix socket that was passed to it.
  if (address === null && asked.kind === 'fd') return { kind: 'unix', path: unixPathOf(asked.fd) ?? '' };
  assert(address !== null, 'a listening server has an address');
  if (typeof address === 'string') return { kind: 'unix', path: address };
  return { kind: 'tcp', host: address.address, port: address.port };
}

/** The path that the unix socket `fd` is bound to, where the kernel tells (Linux). */
function unixPathOf(fd: number): string | undefined {
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
    // Columns of /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path.
    const rows = readFileSync('/proc/net/unix', 'utf8').split('\n');
    return rows.map((row) => /^(?:\S+ +){6}(\d+) (.+)$/.exec(row)).find((row) => row?.[1] === inode)?.[2];
  } catch {
    return undefined;
  }
}

async function clearStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_UNIX_PATH_BYTES) {
    throw new OperationError(`the socket path ${path} is longer than ${MAX_UNIX_PATH_BYTES} bytes`, {
      hint: 'use a shorter path',
    });
  }
  let isSocket: boolean;
  try {
    isSocket = (await lstat(path)).isSocket();
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    // Binding there would tell of missing permissions.
    await stat(dirname(path));
    return;
  }
  // Connecting to a plain file is refused as well: it must never be taken for a dead server's.
  if (!isSocket) {
    throw new OperationError(`${path} exists and is not a socket`, {
      hint: 'choose another path, or remove it',
    });
  }
  if (await isAlive(path)) {
    throw new OperationError(`another server listens on unix:${path}`, {
      hint: 'stop it, or choose another path',
    });
  }
  await unlink(path).catch((error: unknown) => {
    if (errorCode(error) !== 'ENOENT') throw error;
  });
}

/** Whether somebody accepts connections there. Not being allowed to ask counts as yes. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => resolve(!['ECONNREFUSED', 'ENOENT'].includes(errorCode(error) ?? '')));
  });
}

function listenError(address: ListenAddress, error: unknown): OperationError {
  const where = formatAddress(address);
  switch (errorCode(error)) {
    case 'EADDRINUSE':
      return new OperationError(`${where} is in use`, {
        hint: 'stop what listens there, or listen elsewhere',
        cause: error,
      });
    case 'EADDRNOTAVAIL':
      return new OperationError(`${where} is not an address of this machine`, { cause: error });
    case 'EPERM':
      return new OperationError(`not allowed to give ${where} away`, {
        hint: 'only root may choose the owner; others may choose a group that they belong to',
        cause: error,
      });
    case 'EACCES':
      return new OperationError(`not allowed to listen on ${where}`, {
        hint: address.kind === 'tcp' ? 'use a port above 1023' : 'use a directory that you may write to',
        cause: error,
      });
    case 'ENOENT':
      return new OperationError(`the directory of ${where} does not exist`, { cause: error });
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new OperationError(`${where}: the host name is unknown`, { cause: error });
    default:
      return new OperationError(`can't listen on ${where}: ${errorMessage(error)}`, { cause: error });
  }
}
