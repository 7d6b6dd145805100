// The server's side of TLS on a connection that was plain until now. Nothing that the client sends is handed on before
// it has proved what it must; whatever goes wrong is told once, in words, and ends the socket.
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { echo } from '../base/echo.ts';
import type { ServerCredentials } from './tls-credentials.ts';
import { tlsFailure } from './tls-errors.ts';
import { provenIdentity, type TlsIdentity } from './tls-identity.ts';

/** What is asked of clients that have no pre-shared key. */
export type ClientCertificates =
  /** Nothing: they stay anonymous. */
  | 'ignored'
  /** They may show a certificate; one that doesn't verify is worse than none. */
  | 'optional'
  | 'required';

export interface TlsServerOptions {
  readonly credentials: ServerCredentials;
  readonly clientCertificates: ClientCertificates;
}

export interface TlsServerEvents {
  /** The handshake is over. Called before the first byte can be read. */
  secured(identity: TlsIdentity): void;
  /** It failed, for the reason given in one clause. The socket's `close` follows. At most one of the two is called. */
  unsecured(reason: string): void;
}

/**
 * Takes over `socket`, whose next bytes are the client's TLS. The caller has sent everything before, has taken its
 * listeners off, and sees to the deadline.
 * @returns the secure socket, which owns `socket` from now on; it has no listener for `data`
 */
export function acceptTls(socket: Duplex, options: TlsServerOptions, events: TlsServerEvents): TLSSocket {
  const { credentials, clientCertificates } = options;
  const { keys } = credentials;
  let user: string | undefined;
  let unknownUser: string | undefined;
  let decided = false;

  const secure = new TLSSocket(socket as ConstructorParameters<typeof TLSSocket>[0], {
    isServer: true,
    secureContext: credentials.secureContext,
    requestCert: credentials.certificates && clientCertificates !== 'ignored',
    // OpenSSL looks at the certificate; what that means is decided below, where there are words for it.
    rejectUnauthorized: false,
    ...(keys && {
      pskCallback: (_socket: TLSSocket, name: string) => {
        const key = keys.get(name);
        if (key) user = name;
        else unknownUser = name;
        return key ?? null;
      },
    }),
  });

  const fail = (reason: string): void => {
    if (decided) return;
    decided = true;
    events.unsecured(withUser(reason, user, unknownUser));
    secure.destroy();
  };
  secure.on('error', (error) => fail(tlsFailure(error, 'client')));
  // Node swallows these on a server's socket.
  secure.on('_tlsError', (error: Error) => secure.destroy(error));
  secure.once('end', () => fail('the client went away during the TLS handshake'));
  secure.once('close', () => fail('the client went away during the TLS handshake'));
  secure.once('secure', () => {
    if (decided) return;
    const identity = judge(secure, clientCertificates, user);
    if (typeof identity === 'string') {
      fail(identity);
      return;
    }
    decided = true;
    events.secured(identity);
  });
  return secure;
}

function judge(
  secure: TLSSocket,
  clientCertificates: ClientCertificates,
  user: string | undefined,
): TlsIdentity | string {
  let identity: TlsIdentity | string;
  try {
    identity = provenIdentity(secure, user);
  } catch (error) {
    return tlsFailure(error, 'client');
  }
  if (typeof identity === 'string') return identity;
  if (identity.kind === 'anonymous' && clientCertificates === 'required') {
    return 'the client showed no certificate, and one is required';
  }
  return identity;
}

/** Whom the client claimed to be, when that tells an operator more. */
function withUser(reason: string, user: string | undefined, unknownUser: string | undefined): string {
  if (user !== undefined) return `${reason} (user ${echo(user)})`;
  return unknownUser === undefined ? reason : `there is no key of a user ${echo(unknownUser)}: ${reason}`;
}
