// TLS as one NBD server offers it: what it proves itself with, which may change while clients are connected, what it
// asks of clients, and how failures are logged. It moves no bytes itself.
import { LogLimit } from '../base/log-limit.ts';
import type { TlsMode } from '../nbdwire/server-handshake.ts';
import { createStreamEngine, type SocketEngine, type SocketHandler } from '../transport/socket-engine.ts';
import type { ServerCredentials } from '../transport/tls-credentials.ts';
import { acceptTls, type ClientCertificates, type TlsServerEvents } from '../transport/tls-server.ts';
import { TLS_LOG_INTERVAL_MS, TLS_LOG_LINES } from './limits.ts';

export interface TlsOptions {
  /** `require` tells clients nothing before TLS; `allow` leaves it to them. */
  readonly mode: Exclude<TlsMode, 'off'>;
  readonly credentials: ServerCredentials;
  /** Clients without a pre-shared key must show a certificate of ca-cert.pem's. */
  readonly verifyPeer: boolean;
}

export class ServerTls {
  readonly mode: TlsMode;
  /** For what goes wrong before a client is let in. */
  readonly logLimit = new LogLimit({ maxLines: TLS_LOG_LINES, intervalMs: TLS_LOG_INTERVAL_MS });
  readonly #verifyPeer: boolean;
  readonly #exports: { readonly namesCertificates: boolean };
  #credentials: ServerCredentials;

  /** @param exports whether they name certificates decides whether clients are asked for one that they need not have */
  constructor(
    { mode, credentials, verifyPeer }: TlsOptions,
    exports: { readonly namesCertificates: boolean },
  ) {
    this.mode = mode;
    this.#credentials = credentials;
    this.#verifyPeer = verifyPeer;
    this.#exports = exports;
  }

  /** For handshakes from now on; connections that are up stay as they are. */
  replaceCredentials(credentials: ServerCredentials): void {
    this.#credentials = credentials;
  }

  /**
   * Takes the socket out of `engine`, which has nothing to send, and begins TLS on it.
   * @returns the engine to use from now on; undefined when bytes came in the clear that TLS would take for its own
   */
  upgrade(engine: SocketEngine, handler: SocketHandler, events: TlsServerEvents): SocketEngine | undefined {
    const { peer } = engine;
    const socket = engine.release();
    if (socket === undefined) return undefined;
    const options = { credentials: this.#credentials, clientCertificates: this.#asked() };
    return createStreamEngine(acceptTls(socket, options, events), handler, peer);
  }

  #asked(): ClientCertificates {
    if (this.#verifyPeer) return 'required';
    return this.#exports.namesCertificates ? 'optional' : 'ignored';
  }
}
