// Who a client is, as far as the server could find out: what access rules ask, and what the log says of it.
import type { TlsIdentity } from '../transport/tls-identity.ts';

export type { TlsIdentity };

/** The process at the other end of a unix socket, as it was when it connected (SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface ClientIdentity {
  /** IP address as the socket has it; undefined for unix sockets and standard input. */
  readonly address: string | undefined;
  /** Of a client on a unix socket, where the system tells. */
  readonly credentials: PeerCredentials | undefined;
  /** Undefined until TLS is up. Set once, by STARTTLS; every look-up of an export asks anew. */
  tls: TlsIdentity | undefined;
}

/** A client of this machine without an address or anything else to know it by. */
export function localClient(credentials?: PeerCredentials): ClientIdentity {
  return { address: undefined, credentials, tls: undefined };
}

/** What the log says of a client, beyond its address; empty fields are left out. */
export function describeIdentity({ credentials, tls }: ClientIdentity): Record<string, unknown> {
  return {
    ...(credentials && { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid }),
    ...(tls && { tls: tlsText(tls) }),
  };
}

function tlsText(tls: TlsIdentity): string {
  switch (tls.kind) {
    case 'certificate':
      return `certificate ${tls.names.join(', ')}`;
    case 'psk':
      return `psk ${tls.user}`;
    case 'anonymous':
      return 'anonymous';
  }
}
