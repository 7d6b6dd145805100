// Where a control API listens: a unix socket, or loopback TCP. Never an address that another machine can reach.
import { isIP } from 'node:net';

export type ControlAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** Longest path that a unix socket's address holds on Linux, bytes without the NUL. */
export const MAX_UNIX_PATH_BYTES = 107;

/** As `--control` takes it. */
export function formatControlAddress(address: ControlAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return `${isIP(address.host) === 6 ? `[${address.host}]` : address.host}:${address.port}`;
}

/**
 * Whether only this machine can reach `host`: the name `localhost`, 127.0.0.0/8, ::1, or the former mapped into IPv6.
 * Any other name counts as reachable, whatever it resolves to now.
 */
export function isLoopbackHost(host: string): boolean {
  const lower = host.toLowerCase();
  if (lower === 'localhost') return true;
  switch (isIP(lower)) {
    case 4:
      return lower.startsWith('127.');
    case 6:
      return canonicalIpv6(lower) === '::1' || /^::ffff:7f[0-9a-f]{2}:/.test(canonicalIpv6(lower));
    default:
      return false;
  }
}

/** The WHATWG form of an IPv6 address: lower case, compressed, an embedded IPv4 address as two groups. */
function canonicalIpv6(address: string): string {
  const zone = address.indexOf('%');
  if (zone !== -1) return address;
  return new URL(`http://[${address}]/`).hostname.slice(1, -1);
}
