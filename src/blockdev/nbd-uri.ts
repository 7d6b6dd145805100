// Reads NBD URIs (the NBD project's doc/uri.md). By hand and not with URL, which would tidy up the path: an export
// name is free text, and "a/../b" is one. Must never guess: what it doesn't know it names.
import { isIPv6 } from 'node:net';
import { UsageError } from '../base/errors.ts';
import { NBD_MAX_STRING_BYTES } from '../nbdwire/constants.ts';

/** The port that IANA assigned to NBD. */
export const NBD_DEFAULT_PORT = 10809;

/** How the server of an nbds URI proves itself, and we to it. One of `dir` and `pskFile` is there. */
export interface NbdTls {
  /** Directory with ca-cert.pem and, if the server wants one, client-cert.pem and client-key.pem. */
  readonly dir: string | undefined;
  /** psktool's file. */
  readonly pskFile: string | undefined;
  /** Whose key in `pskFile`; undefined when it holds one only. */
  readonly username: string | undefined;
  /** The name or address that the server's certificate must be for. */
  readonly hostname: string;
}

/** Where an NBD export is. */
export type NbdAddress = {
  /** "" is the server's default export. */
  readonly exportName: string;
  /** The URI as it was given, for messages. */
  readonly uri: string;
  /** TLS or nothing, for nbds and nbds+unix; undefined for the others. */
  readonly tls: NbdTls | undefined;
} & (
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
);

const FORMS = 'use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH';

/** RFC 3986, appendix B. */
const URI = /^([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$/s;

/** Bytes of a socket's path that the kernel takes, its NUL excluded. */
const MAX_SOCKET_PATH_BYTES = 107;

/** A unix socket has no name of its own that a certificate could be for. */
const UNIX_HOSTNAME = 'localhost';

const PARAMETERS = [
  'socket',
  'tls-type',
  'tls-certificates',
  'tls-psk-file',
  'tls-username',
  'tls-hostname',
  'tls-verify-peer',
] as const;
type Parameters = ReadonlyMap<(typeof PARAMETERS)[number], string>;

/**
 * Parses `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`; `nbds` and `nbds+unix` with
 * tls-certificates=DIR or tls-psk-file=FILE, and tls-hostname=, tls-username= (or USER@) where needed.
 * @throws UsageError naming what is wrong and what is allowed
 */
export function parseNbdUri(uri: string): NbdAddress {
  const match = URI.exec(uri);
  const [, scheme = '', authority, path = '', query, fragment] = match ?? [];
  const kind = /^nbd(s?)(\+unix)?$/i.exec(scheme);
  if (!kind) throw wrong(uri, `it is no NBD URI; ${FORMS}`);
  if (fragment !== undefined) throw wrong(uri, 'a # in an export name is written %23');
  if (authority === undefined) throw wrong(uri, legacyAdvice(path));
  const secure = kind[1] !== '';
  const unix = kind[2] !== undefined;
  const parameters = parseQuery(uri, query);
  const [, user, place = ''] = /^(?:([^@]*)@)?(.*)$/s.exec(authority)!;
  if (!secure) refuseTlsWords(uri, user, parameters);
  const common = { uri, exportName: exportName(uri, path) };
  if (unix) {
    if (place !== '') throw wrong(uri, `a unix socket has no host; use nbd+unix:///EXPORT?socket=PATH`);
    const tls = secure ? tlsOf(uri, user, UNIX_HOSTNAME, parameters) : undefined;
    return { ...common, tls, kind: 'unix', path: socketPath(uri, parameters.get('socket')) };
  }
  if (parameters.has('socket')) {
    throw wrong(uri, 'nbd:// takes no socket; use nbd+unix:///EXPORT?socket=PATH');
  }
  const { host, port } = hostAndPort(uri, place);
  return { ...common, tls: secure ? tlsOf(uri, user, host, parameters) : undefined, kind: 'tcp', host, port };
}

/** How the same export is named when its server requires TLS. */
export function secureForm(uri: string): string {
  const [scheme = '', query] = [uri.split(':')[0], uri.split('?')[1]];
  const secure = uri.replace(scheme, /^nbd\+unix$/i.test(scheme) ? 'nbds+unix' : 'nbds');
  return `${secure}${query === undefined ? '?' : '&'}tls-certificates=DIR (or tls-psk-file=FILE)`;
}

/** Words about TLS in a URI without it would be a promise that nobody keeps. */
function refuseTlsWords(uri: string, user: string | undefined, parameters: Parameters): void {
  if (user !== undefined) throw wrong(uri, 'a user name is of use only with TLS: nbds://USER@HOST');
  for (const name of parameters.keys()) {
    if (name.startsWith('tls-')) throw wrong(uri, `${name} is of use only with TLS: nbds:// or nbds+unix://`);
  }
}

function tlsOf(uri: string, user: string | undefined, host: string, parameters: Parameters): NbdTls {
  const dir = parameters.get('tls-certificates');
  const pskFile = parameters.get('tls-psk-file');
  const type = parameters.get('tls-type') ?? (pskFile === undefined ? 'x509' : 'psk');
  if (type !== 'x509' && type !== 'psk') {
    throw wrong(
      uri,
      `tls-type ${JSON.stringify(type)}: x509 and psk are possible; without proof TLS is none`,
    );
  }
  if (parameters.get('tls-verify-peer') === '0' || parameters.get('tls-verify-peer') === 'false') {
    throw wrong(uri, 'tls-verify-peer: the server is always verified; give its CA with tls-certificates=DIR');
  }
  const wanted = type === 'psk' ? pskFile : dir;
  const other = type === 'psk' ? dir : pskFile;
  if (!wanted || other !== undefined) {
    throw wrong(uri, 'TLS needs either tls-certificates=DIR or tls-psk-file=FILE in the URI');
  }
  const username = parameters.get('tls-username') ?? (user && decode(uri, user, 'the user name'));
  const hostname = parameters.get('tls-hostname') ?? host;
  return { dir, pskFile, username: username || undefined, hostname: hostname || host };
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

function parseQuery(uri: string, query: string | undefined): Parameters {
  const parameters = new Map<(typeof PARAMETERS)[number], string>();
  for (const part of (query ?? '').split('&')) {
    if (part === '') continue;
    const cut = part.indexOf('=');
    const given = decode(uri, cut < 0 ? part : part.slice(0, cut), 'a parameter');
    const name = PARAMETERS.find((known) => known === given);
    if (name === undefined) {
      throw wrong(uri, `unknown parameter ${JSON.stringify(given)}; allowed: ${PARAMETERS.join(', ')}`);
    }
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
