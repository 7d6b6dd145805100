// Reads NBD URIs (the NBD project's doc/uri.md). By hand and not with URL, which would tidy up the path: an export
// name is free text, and "a/../b" is one. Must never guess: what it doesn't know it names.
import { isIPv6 } from 'node:net';
import { OperationError, UsageError } from '../base/errors.ts';
import { NBD_MAX_STRING_BYTES } from '../nbdwire/constants.ts';

/** The port that IANA assigned to NBD. */
export const NBD_DEFAULT_PORT = 10809;

/** Where an NBD export is. */
export type NbdAddress = {
  /** "" is the server's default export. */
  readonly exportName: string;
  /** The URI as it was given, for messages. */
  readonly uri: string;
} & (
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
);

const FORMS = 'use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH';

/** RFC 3986, appendix B. */
const URI = /^([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$/s;

/** Bytes of a socket's path that the kernel takes, its NUL excluded. */
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * Parses `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
 * @throws UsageError naming what is wrong and what is allowed
 * @throws OperationError for nbds:// and nbds+unix://, which need TLS
 */
export function parseNbdUri(uri: string): NbdAddress {
  const match = URI.exec(uri);
  const [, scheme = '', authority, path = '', query, fragment] = match ?? [];
  switch (scheme.toLowerCase()) {
    case 'nbd':
    case 'nbd+unix':
      break;
    case 'nbds':
    case 'nbds+unix':
      throw needsTls(uri);
    default:
      throw wrong(uri, `it is no NBD URI; ${FORMS}`);
  }
  if (fragment !== undefined) throw wrong(uri, 'a # in an export name is written %23');
  if (authority === undefined) throw wrong(uri, legacyAdvice(path));
  const common = { uri, exportName: exportName(uri, path) };
  const parameters = parseQuery(uri, query);
  if (scheme.toLowerCase() === 'nbd+unix') {
    if (authority !== '') throw wrong(uri, `a unix socket has no host; use nbd+unix:///EXPORT?socket=PATH`);
    return { ...common, kind: 'unix', path: socketPath(uri, parameters.get('socket')) };
  }
  if (parameters.has('socket')) {
    throw wrong(uri, 'nbd:// takes no socket; use nbd+unix:///EXPORT?socket=PATH');
  }
  return { ...common, kind: 'tcp', ...hostAndPort(uri, authority) };
}

function exportName(uri: string, path: string): string {
  const name = decode(uri, path.replace(/^\//, ''), 'the export name');
  if (name.includes('\0')) throw wrong(uri, 'an export name has no NUL');
  if (Buffer.byteLength(name) > NBD_MAX_STRING_BYTES) {
    throw wrong(uri, `an export name has at most ${NBD_MAX_STRING_BYTES} bytes`);
  }
  return name;
}

function hostAndPort(uri: string, authority: string): { host: string; port: number } {
  if (authority.includes('@')) throw wrong(uri, 'a user name is of use only with TLS, which comes later');
  const match = /^(?:\[(.*)\]|([^:[\]]*))(?::(\d*))?$/s.exec(authority);
  const [, literal, name = '', digits = ''] = match ?? [];
  const port = digits === '' ? NBD_DEFAULT_PORT : Number(digits);
  if (!match || port < 1 || port > 65535) {
    throw wrong(
      uri,
      `${JSON.stringify(authority)} is not HOST, HOST:PORT or [IPv6]:PORT with a port of 1 to 65535`,
    );
  }
  const host = decode(uri, literal ?? name, 'the host');
  if (literal !== undefined && !isIPv6(host)) throw wrong(uri, `[${literal}] is not an IPv6 address`);
  if (/[\0\s/]/.test(host)) throw wrong(uri, `${JSON.stringify(host)} is not a host name or address`);
  return { host: host === '' ? 'localhost' : host, port };
}

function parseQuery(uri: string, query: string | undefined): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const part of (query ?? '').split('&')) {
    if (part === '') continue;
    const cut = part.indexOf('=');
    const name = decode(uri, cut < 0 ? part : part.slice(0, cut), 'a parameter');
    if (name.startsWith('tls-')) throw needsTls(uri);
    if (name !== 'socket') throw wrong(uri, `unknown parameter ${JSON.stringify(name)}; allowed: socket`);
    if (parameters.has(name)) throw wrong(uri, `${name} is given twice`);
    parameters.set(name, decode(uri, cut < 0 ? '' : part.slice(cut + 1), name));
  }
  return parameters;
}

function socketPath(uri: string, path: string | undefined): string {
  if (!path) throw wrong(uri, 'the path of the socket is missing; use nbd+unix:///EXPORT?socket=PATH');
  // A NUL in front names a socket of Linux' abstract namespace.
  if (path.includes('\0', 1))
    throw wrong(uri, 'a socket path has no NUL, except in front for an abstract socket');
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw wrong(uri, `a socket path has at most ${MAX_SOCKET_PATH_BYTES} bytes`);
  }
  return path;
}

function decode(uri: string, text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw wrong(uri, `${what} is not percent-encoded UTF-8 (a % itself is written %25)`);
  }
}

/** `nbd:HOST:PORT` and `nbd:unix:PATH` are QEMU's older notation, and people have them at hand. */
function legacyAdvice(path: string): string {
  const unix = /^unix:([^:]*)(?::exportname=(.*))?$/s.exec(path);
  if (unix) {
    return `use nbd+unix:///${encodeURIComponent(unix[2] ?? '')}?socket=${encodeURI(unix[1] ?? '')}`;
  }
  const tcp = /^([^:/]+):(\d+)(?::exportname=(.*))?$/s.exec(path);
  return tcp ? `use nbd://${tcp[1]}:${tcp[2]}/${encodeURIComponent(tcp[3] ?? '')}` : FORMS;
}

function wrong(uri: string, why: string): UsageError {
  return new UsageError(`${JSON.stringify(uri)}: ${why}`);
}

function needsTls(uri: string): OperationError {
  return new OperationError(`${JSON.stringify(uri)}: TLS to an upstream NBD server comes later`, {
    hint: `without encryption, over a network you trust: ${FORMS}`,
  });
}
