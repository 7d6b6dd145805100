// Why a handshake did not end in a usable export. The kind says what a caller can do about it.

export type HandshakeErrorKind =
  /** Not an NBD server, or one too old. */
  | 'not-nbd'
  /** The server has no such export, or doesn't show it. */
  | 'unknown-export'
  /** The server insists on TLS, which was not asked for. */
  | 'tls-required'
  /** TLS was asked for, and the server has none, or does it wrong. */
  | 'tls-refused'
  /** The server is on its way out: another attempt later may succeed. */
  | 'shutting-down'
  /** The server understood and said no. */
  | 'refused'
  /** The export exists and can't be used: its size, its block sizes. */
  | 'unsuitable'
  /** The server broke the protocol, or the connection ended in the middle. */
  | 'protocol';

export class HandshakeError extends Error {
  override readonly name = 'HandshakeError';
  readonly kind: HandshakeErrorKind;

  constructor(kind: HandshakeErrorKind, message: string) {
    super(message);
    this.kind = kind;
  }
}
