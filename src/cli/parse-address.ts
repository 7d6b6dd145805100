// Addresses as the command line takes them, as values. Nothing here resolves a name or opens a socket.
import { isIP } from 'node:net';
import { UsageError } from '../base/errors.ts';
import { MAX_HUBS_PER_AGENT } from '../base/limits.ts';
import { type ControlAddress, isLoopbackHost } from '../control/address.ts';

export type ListenAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export const DEFAULT_NBD_LISTEN = '127.0.0.1:10809';
export const DEFAULT_HUB_LISTEN = '127.0.0.1:9010';
export const DEFAULT_HUB_PORT = 9010;

/**
 * `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
 * @param label names the option in errors
 * @throws UsageError
 */
export function parseListen(text: string, label = '--listen'): ListenAddress {
  const path = unixPath(text, label);
  if (path !== undefined) return { kind: 'unix', path };
  return { kind: 'tcp', ...parseHostPort(text, label) };
}

/** As {@link parseListen}, but a TCP address must be loopback. @throws UsageError */
export function parseControl(text: string, label = '--control'): ControlAddress {
  const address = parseListen(text, label);
  if (address.kind === 'tcp' && !isLoopbackHost(address.host)) {
    throw new UsageError(
      `${label}: ${text} can be reached from other machines; use unix:PATH or 127.0.0.1:PORT`,
    );
  }
  return address;
}

/**
 * `HOST:PORT` or `[IPV6]:PORT`; port 0 lets the system choose.
 * @throws UsageError
 */
export function parseHostPort(text: string, label: string): HostPort {
  const match = /^(?:\[([^\]]*)\]|([^:[\]/\s]*)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? '';
  const wrong = !match || host === '' || (match[1] !== undefined && isIP(host) !== 6);
  if (wrong) {
    const hint = /^\d+$/.test(text) ? `; did you mean 127.0.0.1:${text}?` : '';
    throw new UsageError(
      `${label}: ${JSON.stringify(text)} is not an address; use HOST:PORT, [IPV6]:PORT or unix:PATH${hint}`,
    );
  }
  return { host, port: parsePort(match[3]!, label, 0) };
}

/**
 * `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`, or the URL that a hub prints; the port is 9010 unless given.
 * @throws UsageError
 */
export function parseHub(text: string, label = '--hub'): HostPort {
  const bare = text.replace(/^repagent:\/\//, '').replace(/\/$/, '');
  if (isIP(bare) === 6) return { host: bare, port: DEFAULT_HUB_PORT };
  const match = /^(?:\[([^\]]*)\]|([^:[\]/\s]+))(?::(\d{1,5}))?$/.exec(bare);
  if (!match || (match[1] !== undefined && isIP(match[1]) !== 6)) {
    throw new UsageError(
      `${label}: ${JSON.stringify(text)} is not a hub's address; use HOST, HOST:PORT or [IPV6]:PORT`,
    );
  }
  return {
    host: match[1] ?? match[2]!,
    port: match[3] === undefined ? DEFAULT_HUB_PORT : parsePort(match[3], label, 1),
  };
}

/** A hub to replicate to. */
export interface HubAddress extends HostPort {
  /** What it is called: its address, unless it was given a name. */
  readonly name: string;
}

const HUB_NAME = /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.*)$/s;

/**
 * Each `NAME=ADDRESS`, or an address as {@link parseHub} takes it.
 * @throws UsageError also when there are too many, or two of one name or address
 */
export function parseHubs(texts: readonly string[], label = '--hub'): HubAddress[] {
  const hubs = texts.map((text): HubAddress => {
    const [, name, address] = HUB_NAME.exec(text) ?? [];
    const place = parseHub(address ?? text, label);
    if (place.host.includes('=')) {
      throw new UsageError(
        `${label}: ${JSON.stringify(text)} is neither a hub's address nor NAME=ADDRESS; a name has letters, digits, dots and dashes`,
      );
    }
    return { name: name ?? formatHostPort(place), ...place };
  });
  if (hubs.length > MAX_HUBS_PER_AGENT) {
    throw new UsageError(`${label}: ${hubs.length} hubs are too many; at most ${MAX_HUBS_PER_AGENT}`);
  }
  const seen = new Set<string>();
  for (const hub of hubs) {
    for (const text of new Set([hub.name, formatHostPort(hub).toLowerCase()])) {
      if (seen.has(text))
        throw new UsageError(`${label}: ${text} is there twice; each hub makes one replica`);
      seen.add(text);
    }
  }
  return hubs;
}

/** `HOST:PORT` with brackets where they belong. */
export function formatHostPort({ host, port }: HostPort): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/**
 * Refuses an address that other machines can reach, unless that is accepted.
 * @param remedy a way to make it secure, for the error
 * @throws UsageError
 */
export function checkExposure(
  addresses: readonly ListenAddress[],
  accepted: boolean,
  what: string,
  remedy?: string,
): void {
  if (accepted) return;
  for (const address of addresses) {
    if (address.kind === 'unix' || isLoopbackHost(address.host)) continue;
    throw new UsageError(
      `--listen: ${formatHostPort(address)} can be reached from other machines, and ${what} are neither ` +
        `encrypted nor authenticated; listen on 127.0.0.1 or unix:PATH, ${remedy === undefined ? '' : `${remedy}, `}` +
        'or accept it with --insecure',
    );
  }
}

function unixPath(text: string, label: string): string | undefined {
  if (!text.startsWith('unix:')) return undefined;
  const path = text.slice('unix:'.length);
  if (path === '' || path.includes('\0'))
    throw new UsageError(`${label}: unix: needs a path, as in unix:/run/a.sock`);
  return path;
}

function parsePort(text: string, label: string, min: number): number {
  const port = Number(text);
  if (port < min || port > 65_535) {
    throw new UsageError(`${label}: port ${text} is outside ${min}..65535`);
  }
  return port;
}
