// Who a client proved to be, read off a TLS connection whose handshake is over. What was merely claimed counts for
// nothing: not a certificate that doesn't verify, not the name of a key that wasn't used in the end.
import type { TLSSocket } from 'node:tls';
import { tlsFailure } from './tls-errors.ts';

/** Who a client proved to be by TLS. */
export type TlsIdentity =
  /** A certificate that was verified: its common name and the DNS names beside it. */
  | { readonly kind: 'certificate'; readonly names: readonly string[] }
  /** A key that both share, and the name that it goes by. */
  | { readonly kind: 'psk'; readonly user: string }
  /** Encrypted, but the client showed nothing. */
  | { readonly kind: 'anonymous' };

/** What OpenSSL found out about the peer's certificate; undefined when nothing is wrong with it. Node has no other way. */
interface Verified {
  readonly ssl: { verifyError(): Error | undefined };
}

/**
 * @param user whose key was looked up last, if any was
 * @returns the identity, or in one clause why there is none that can be trusted
 */
export function provenIdentity(secure: TLSSocket, user: string | undefined): TlsIdentity | string {
  const usedKey = isPskUsed(secure);
  if (usedKey) return user === undefined ? 'the client resumed a session of before' : { kind: 'psk', user };
  const certificate = secure.getPeerX509Certificate();
  if (certificate === undefined) return { kind: 'anonymous' };
  const error = (secure as unknown as Verified).ssl.verifyError();
  if (error) return tlsFailure(error, 'client');
  const { CN } = certificate.toLegacyObject().subject as { CN?: string | readonly string[] };
  return {
    kind: 'certificate',
    names: [...new Set([CN ?? [], dnsNames(certificate.subjectAltName)].flat())],
  };
}

/**
 * Whether the key decided, not just its name: TLS 1.3 counts it as a session resumed (others can't be, without
 * tickets), TLS 1.2 has suites of its own for it.
 */
function isPskUsed(secure: TLSSocket): boolean {
  return secure.isSessionReused() || /\bPSK\b/.test(secure.getCipher().name);
}

/**
 * The DNS names in a subjectAltName as Node prints it: `DNS:a.example, IP Address:192.0.2.1`. What could be taken for
 * a separator stands in quotes, as JSON, so that a name in one entry can't pass for another entry.
 */
export function dnsNames(altNames: string | undefined): string[] {
  if (altNames === undefined) return [];
  const names: string[] = [];
  const entry = /([^:,"]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/y;
  while (entry.lastIndex < altNames.length) {
    const match = entry.exec(altNames);
    // Nothing that can't be understood to its end names anybody.
    if (match === null) return [];
    const [, kind, value = ''] = match;
    if (kind === 'DNS') names.push(value.startsWith('"') ? (JSON.parse(value) as string) : value);
  }
  return names;
}
