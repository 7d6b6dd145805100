// What the system knows of a socket and Node doesn't tell: who is at the other end, whether it listens, how long a dead
// peer is waited for. Where there is no native access nothing is known, and the defaults of the system stay.
import { loadNativeCalls, type NativeCalls } from '../base/native-calls.ts';
import type { PeerCredentials } from './client-identity.ts';
import {
  KEEPALIVE_AFTER_MS,
  KEEPALIVE_INTERVAL_MS,
  KEEPALIVE_PROBES,
  TCP_USER_TIMEOUT_MS,
  UNIX_SEND_BYTES,
} from './limits.ts';

// <sys/socket.h> and <netinet/tcp.h> of Linux.
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_SNDBUF = 7;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
const TCP_USER_TIMEOUT = 18;
const AF_UNIX = 1;
const SOCK_STREAM = 1;

/** The process at the other end of a unix socket, where the system tells. */
export function peerCredentials(
  fd: number | undefined,
  native = loadNativeCalls(),
): PeerCredentials | undefined {
  if (fd === undefined || native?.getSocketOption(fd, SOL_SOCKET, SO_DOMAIN, 1)?.[0] !== AF_UNIX)
    return undefined;
  const [pid, uid, gid] = native.getSocketOption(fd, SOL_SOCKET, SO_PEERCRED, 3) ?? [];
  // Zero is what the system says of a process of another namespace.
  if (pid === undefined || uid === undefined || gid === undefined || pid <= 0) return undefined;
  // They are unsigned.
  return { pid, uid: uid >>> 0, gid: gid >>> 0 };
}

export type SocketKind = 'listening' | 'connected' | 'datagram' | 'no-socket' | 'unknown';

/** What a descriptor that someone passed to us is; `unknown` without native access. */
export function socketKind(fd: number, native: NativeCalls | undefined = loadNativeCalls()): SocketKind {
  if (!native) return 'unknown';
  const type = native.getSocketOption(fd, SOL_SOCKET, SO_TYPE, 1)?.[0];
  if (type === undefined) return 'no-socket';
  if (type !== SOCK_STREAM) return 'datagram';
  return native.getSocketOption(fd, SOL_SOCKET, SO_ACCEPTCONN, 1)?.[0] === 1 ? 'listening' : 'connected';
}

/**
 * Gives up on a TCP peer that is gone: probes when it is silent, and a limit for what it doesn't acknowledge, which
 * the system would send again for a quarter of an hour. Does nothing to other sockets.
 */
export function noticeDeadPeer(
  fd: number | undefined,
  native: NativeCalls | undefined = loadNativeCalls(),
): void {
  if (fd === undefined || !native) return;
  const set = (option: number, value: number): string | undefined =>
    native.setSocketOption(fd, IPPROTO_TCP, option, value);
  if (set(TCP_KEEPIDLE, KEEPALIVE_AFTER_MS / 1000) !== undefined) return;
  set(TCP_KEEPINTVL, KEEPALIVE_INTERVAL_MS / 1000);
  set(TCP_KEEPCNT, KEEPALIVE_PROBES);
  set(TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS);
}

/** The same figures, read back: seconds, seconds, probes, milliseconds. */
export function deadPeerTimers(fd: number, native: NativeCalls | undefined = loadNativeCalls()): number[] {
  return [TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT].map(
    (option) => native?.getSocketOption(fd, IPPROTO_TCP, option, 1)?.[0] ?? -1,
  );
}

/**
 * Has the kernel take more of us at a time for a unix socket. By default that is less than one reply of 256 KiB, which
 * then leaves in pieces, with a wake-up for each. TCP sockets grow by themselves, and are left alone; so is everything
 * where the system allows no more (`net.core.wmem_max`).
 */
export function widenUnixSocket(
  fd: number | undefined,
  native: NativeCalls | undefined = loadNativeCalls(),
): void {
  if (fd === undefined || native?.getSocketOption(fd, SOL_SOCKET, SO_DOMAIN, 1)?.[0] !== AF_UNIX) return;
  native.setSocketOption(fd, SOL_SOCKET, SO_SNDBUF, UNIX_SEND_BYTES);
}

/** What the kernel takes of a socket's owner at a time, bytes; 0 when it doesn't tell. */
export function sendBufferBytes(fd: number, native: NativeCalls | undefined = loadNativeCalls()): number {
  return native?.getSocketOption(fd, SOL_SOCKET, SO_SNDBUF, 1)?.[0] ?? 0;
}
