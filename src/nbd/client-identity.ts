// Who a client is, as far as the server could find out: what access rules ask, and what the log says of it.

/** The process at the other end of a unix socket, as it was when it connected (SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Who a client proved to be by TLS. */
export type TlsIdentity =
  /** A certificate that was verified: its common name and the DNS names beside it. */
  | { readonly kind: 'certificate'; readonly names: readonly string[] }
  /** A key that both share, and the name that it goes by. */
  | { readonly kind: 'psk'; readonly user: string }
  /** Encrypted, but the client showed nothing. */
  | { readonly kind: 'anonymous' };

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
