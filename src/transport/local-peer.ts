// Connections whose two ends are on this machine: what suits a network, and only costs time here, is taken off them.
// Where there is no native access, they stay as the system makes them.
import type { Server, Socket } from 'node:net';
import { loadNativeCalls, type NativeCalls } from '../base/native-calls.ts';

// <netinet/tcp.h> of Linux.
const IPPROTO_TCP = 6;
const TCP_CONGESTION = 13;

/** Congestion controls that pace: bbr, bbr1, bbr3 and the like. */
const PACING = /^bbr/;

/** Never paces, is built into every kernel, and anyone may choose it. */
const UNPACED = 'reno';

/** The system descriptor of a socket or listener; undefined where Node hides it, or it is closed. */
export function descriptorOf(socket: Socket | Server): number | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } | null };
  const fd = handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

/**
 * Takes pacing off a connected TCP socket whose peer is on this machine. A host that has BBR for its network sends
 * over loopback by a timer too, which costs more than the copy of the bytes; there is no link to be fair to. A peer
 * elsewhere keeps what the host's administrator chose.
 */
export function stopLocalPacing(socket: Socket, native: NativeCalls | undefined = loadNativeCalls()): void {
  const { localAddress, remoteAddress } = socket;
  if (!native || remoteAddress === undefined || remoteAddress !== localAddress) return;
  const fd = descriptorOf(socket);
  if (fd === undefined) return;
  const control = native.getSocketName(fd, IPPROTO_TCP, TCP_CONGESTION);
  if (control !== undefined && PACING.test(control)) {
    native.setSocketName(fd, IPPROTO_TCP, TCP_CONGESTION, UNPACED);
  }
}

/** What decides how fast a TCP socket sends, by the system's name; undefined when it won't tell. */
export function congestionControl(
  fd: number,
  native: NativeCalls | undefined = loadNativeCalls(),
): string | undefined {
  return native?.getSocketName(fd, IPPROTO_TCP, TCP_CONGESTION);
}
