// The NBD server: listens, accepts, and goes down in order. It sees devices only as BlockDevice, and never closes one.
import { createServer, type Server, type Socket } from 'node:net';
import { assert } from '../base/assert.ts';
import { errorMessage, UsageError } from '../base/errors.ts';
import { type Closeable, type Deferred, deferred, within } from '../base/lifecycle.ts';
import type { Logger } from '../base/log.ts';
import { descriptorOf, stopLocalPacing } from '../transport/local-peer.ts';
import {
  createHandleEngine,
  createSocketEngine,
  type SocketEngine,
  type SocketHandle,
  type SocketHandler,
} from '../transport/socket-engine.ts';
import type { ServerCredentials } from '../transport/tls-credentials.ts';
import { Admission } from './admission.ts';
import type { ClientIdentity } from './client-identity.ts';
import { Connection } from './connection.ts';
import { ExportList, type ExportSpec, type ExportVisibility } from './exports.ts';
import type { ClientTaker, NegotiatedClient, NegotiatedHere } from './hand-over.ts';
import {
  DEFAULT_HANDSHAKE_TIMEOUT_MS,
  DEFAULT_MAX_CONNECTIONS,
  DEFAULT_MAX_CONNECTIONS_PER_ADDRESS,
  DEFAULT_SHUTDOWN_TIMEOUT_MS,
  IDLE_CHECKS,
  KEEPALIVE_AFTER_MS,
  LINGER_MS,
  SHUTDOWN_LINGER_MS,
} from './limits.ts';
import { type BoundAddress, formatAddress, type ListenAddress, listen } from './listen-address.ts';
import { ServerTls, type TlsOptions } from './server-tls.ts';
import { noticeDeadPeer, peerCredentials, widenUnixSocket } from './socket-options.ts';

export interface NbdServerOptions {
  /** The first is also the default export "". */
  readonly exports: readonly ExportSpec[];
  readonly listen: readonly ListenAddress[];
  readonly logger: Logger;
  /** Undefined: STARTTLS is refused. */
  readonly tls?: TlsOptions | undefined;
  /** Speak oldstyle, for clients of before 2013: the default export, and no TLS. */
  readonly oldstyle?: boolean | undefined;
  /** Carries out what clients ask for once they have chosen an export. Default: this server. */
  readonly taker?: ClientTaker | undefined;
  /**
   * Connections at a time. One more takes the place of the one that chooses an export for the longest time; without
   * such a one it is closed at once. Default 1024.
   */
  readonly maxConnections?: number;
  /** The same for each IP address, IPv6 by /64. Default 512. */
  readonly maxConnectionsPerAddress?: number;
  /** Milliseconds that a client may take to choose an export. Default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** Milliseconds without a byte either way, and with nothing in flight, after which a client is sent away. Default: never. */
  readonly idleTimeoutMs?: number;
  /** Milliseconds that close() may take. Default 10,000. */
  readonly shutdownTimeoutMs?: number;
}

export interface NbdServer extends Closeable {
  /** Where it listens, in the order of the options, with real ports. */
  readonly addresses: readonly BoundAddress[];
  /** Connections that are open now. */
  readonly connectionCount: number;
  /** Changes who may use and see the exports, for clients that choose one from now on. Those not named are open to all. */
  setVisibility(byName: ReadonlyMap<string, ExportVisibility>): void;
  /** Changes what the server proves itself with, and whom it knows, for clients that start TLS from now on. */
  setTlsCredentials(credentials: ServerCredentials): void;
  /**
   * Serves a client whose streams are open already, such as standard input and output.
   * @returns a promise that resolves when it is gone, and never rejects
   */
  serveOne(client: ClientIdentity, openEngine: (handler: SocketHandler) => SocketEngine): Promise<void>;
  /**
   * Goes on with a client that another server gave away: requests follow at once.
   * @param gone called once, when nothing is left of it; also when this server is closing or has no such export
   */
  adopt(client: NegotiatedClient, handle: SocketHandle, gone: () => void): void;
  /**
   * Stops listening, refuses new requests, answers those in flight, flushes every export, closes every connection.
   * Takes at most `shutdownTimeoutMs`; what is not done by then is cut off. Never rejects.
   */
  close(): Promise<void>;
}

/**
 * Starts a server.
 * @throws UsageError for exports that can't be served
 * @throws OperationError when it can't listen; nothing is left behind
 */
export async function startNbdServer(options: NbdServerOptions): Promise<NbdServer> {
  if (options.oldstyle && options.tls) throw new UsageError('oldstyle clients cannot speak TLS');
  const server = new RunningServer(options);
  try {
    for (const address of options.listen) await server.listen(address);
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

class RunningServer implements NbdServer {
  readonly addresses: BoundAddress[] = [];
  readonly #options: NbdServerOptions;
  readonly #logger: Logger;
  readonly #exports: ExportList;
  readonly #tls: ServerTls | undefined;
  readonly #listeners: Server[] = [];
  readonly #admission: Admission<Connection>;
  readonly #idleTimer: NodeJS.Timeout | undefined;
  #refused = 0;
  #displaced = 0;
  #closing: Promise<void> | undefined;
  /** Resolved by the next change that shutdown waits for. */
  #change: Deferred<void> | undefined;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#logger = options.logger;
    this.#exports = new ExportList(options.exports);
    this.#tls = options.tls && new ServerTls(options.tls, this.#exports);
    this.#admission = new Admission({
      total: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
      perAddress: options.maxConnectionsPerAddress ?? DEFAULT_MAX_CONNECTIONS_PER_ADDRESS,
    });
    const { idleTimeoutMs } = options;
    if (idleTimeoutMs === undefined) return;
    // One timer for all: a request must not cost one.
    this.#idleTimer = setInterval(() => this.#endIdle(), idleTimeoutMs / IDLE_CHECKS).unref();
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  get #connections(): ReadonlySet<Connection> {
    return this.#admission.connections;
  }

  async listen(address: ListenAddress): Promise<void> {
    const isTcp = (): boolean => server.address() !== null && typeof server.address() !== 'string';
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
      // A TCP client that has gone again must not be taken for one of a unix socket.
      this.#accept(socket, isTcp() ? (socket.remoteAddress ?? 'gone') : undefined);
    });
    const bound = await listen(server, address);
    // An accept that fails (no descriptors left, a peer that is gone already) is that peer's loss alone.
    server.on('error', (error) => {
      this.#logger.warn({ err: errorMessage(error) }, 'accepting an NBD connection failed');
    });
    this.#listeners.push(server);
    this.addresses.push(bound);
    this.#logger.info({ address: formatAddress(bound) }, 'NBD server listens');
  }

  setVisibility(byName: ReadonlyMap<string, ExportVisibility>): void {
    this.#exports.setVisibility(byName);
  }

  setTlsCredentials(credentials: ServerCredentials): void {
    assert(this.#tls !== undefined, 'credentials for a server without TLS');
    this.#tls.replaceCredentials(credentials);
  }

  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  serveOne(client: ClientIdentity, openEngine: (handler: SocketHandler) => SocketEngine): Promise<void> {
    if (this.#closing) return Promise.resolve();
    const gone = deferred<void>();
    this.#open(client, openEngine, (connection) => {
      if (connection.state === 'dead') gone.resolve();
    });
    return gone.promise;
  }

  adopt(from: NegotiatedClient, handle: SocketHandle, gone: () => void): void {
    const target = this.#closing ? undefined : this.#exports.negotiated(from.exportName, from.sizeBytes);
    if (!target) {
      handle.close();
      gone();
      return;
    }
    const { client, peer, style, contexts, received } = from;
    this.#open(
      client,
      (handler) => createHandleEngine(handle, handler, peer),
      (connection) => {
        if (connection.state === 'dead') gone();
      },
      { target, style, contexts, received },
    );
  }

  #accept(socket: Socket, address: string | undefined): void {
    const verdict = this.#closing ? undefined : this.#admission.judge(address);
    if (verdict === undefined || verdict.kind === 'refused') {
      this.#refuse(socket, verdict?.limit);
      return;
    }
    if (verdict.kind === 'instead') this.#displace(verdict.victim);
    const fd = descriptorOf(socket);
    const credentials = address === undefined ? peerCredentials(fd) : undefined;
    stopLocalPacing(socket);
    if (address === undefined) widenUnixSocket(fd);
    this.#open({ address, credentials, tls: undefined }, (handler) =>
      createSocketEngine(socket, handler, KEEPALIVE_AFTER_MS),
    );
    if (address !== undefined) noticeDeadPeer(fd);
  }

  #open(
    client: ClientIdentity,
    openEngine: (handler: SocketHandler) => SocketEngine,
    onChange?: (connection: Connection) => void,
    negotiated?: NegotiatedHere,
  ): void {
    const changed = (connection: Connection): void => {
      this.#changed(connection);
      onChange?.(connection);
    };
    const connection = new Connection({
      exports: this.#exports,
      client,
      tls: this.#tls,
      oldstyle: this.#options.oldstyle,
      taker: this.#options.taker,
      negotiated,
      logger: this.#logger,
      handshakeTimeoutMs: this.#options.handshakeTimeoutMs ?? DEFAULT_HANDSHAKE_TIMEOUT_MS,
      openEngine,
      onChange: onChange ? changed : this.#changed,
    });
    this.#admission.add(connection);
  }

  /** Sends away who chooses an export for the longest time. */
  #displace(victim: Connection): void {
    this.#displaced += 1;
    if (isNoted(this.#displaced)) {
      const about = { peer: victim.peer, displaced: this.#displaced };
      this.#logger.warn(about, 'too many NBD connections: dropped the oldest handshake for a new one');
    }
    victim.destroy();
  }

  #refuse(socket: Socket, limit: 'total' | 'address' | undefined): void {
    const peer = socket.remoteAddress;
    socket.on('error', () => {});
    socket.destroy();
    if (limit === undefined) return;
    this.#refused += 1;
    if (!isNoted(this.#refused)) return;
    const about = { limit, peer, refused: this.#refused };
    this.#logger.warn(about, 'too many NBD connections: refused one more');
  }

  #endIdle(): void {
    for (const connection of this.#connections) {
      if (connection.quietChecks() < IDLE_CHECKS) continue;
      this.#logger.info({ peer: connection.peer }, 'NBD client is idle: sent away');
      connection.finish(LINGER_MS);
    }
  }

  readonly #changed = (connection: Connection): void => {
    if (connection.state === 'dead') this.#admission.remove(connection);
    this.#change?.resolve();
  };

  async #shutDown(): Promise<void> {
    const endsAt = performance.now() + (this.#options.shutdownTimeoutMs ?? DEFAULT_SHUTDOWN_TIMEOUT_MS);
    clearInterval(this.#idleTimer);
    // Closing a listener removes its unix socket too.
    for (const server of this.#listeners) server.close();
    for (const connection of this.#connections) connection.drain();
    const idle = await this.#until(() => [...this.#connections].every((c) => c.inFlight === 0), endsAt);
    if (!idle) this.#logger.error('NBD shutdown: requests are still in flight, not waiting any longer');
    await this.#flushAll(endsAt);
    for (const connection of this.#connections) connection.finish(SHUTDOWN_LINGER_MS);
    // Those that another server carries on are that one's to end.
    const noneHere = (): boolean => [...this.#connections].every(({ state }) => state === 'away');
    await this.#until(noneHere, endsAt);
    for (const connection of this.#connections) connection.destroy();
    // Being destroyed takes a turn of the event loop, and can't fail.
    await this.#until(noneHere, performance.now() + SHUTDOWN_LINGER_MS);
    this.#logger.info('NBD server closed');
  }

  async #flushAll(endsAt: number): Promise<void> {
    const flushes = this.#options.exports.map(async ({ name, device }) => {
      try {
        await device.flush();
      } catch (error) {
        this.#logger.error({ export: name, err: errorMessage(error) }, 'NBD shutdown: flush failed');
      }
      return true;
    });
    const done = await within(Promise.all(flushes), Math.max(0, endsAt - performance.now()));
    if (!done) this.#logger.error('NBD shutdown: a flush takes too long, not waiting any longer');
  }

  /** Waits until `condition` holds; false when the time was up first. */
  async #until(condition: () => boolean, endsAt: number): Promise<boolean> {
    while (!condition()) {
      const left = endsAt - performance.now();
      if (left <= 0) return false;
      this.#change = deferred<void>();
      await within(this.#change.promise, left);
    }
    return true;
  }
}

/** The first of a series, and then now and then: a flood must not become a flood of lines. */
function isNoted(count: number): boolean {
  return count % 1000 === 1;
}
