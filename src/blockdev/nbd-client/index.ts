// Opens an export of any NBD server as a block device. The link to it heals itself; see link.ts and unflushed-log.ts
// for what that does and doesn't promise.
import { MiB } from '../../base/limits.ts';
import type { Logger } from '../../base/log.ts';
import { loadClientCredentials } from '../../transport/tls-credentials.ts';
import { type NbdTls, parseNbdUri } from '../nbd-uri.ts';
import { type BackoffOptions, DEFAULT_BACKOFF } from './backoff.ts';
import type { Security } from './connection.ts';
import { NbdDevice } from './device.ts';
import { NbdLink } from './link.ts';
import { openError } from './open-error.ts';

/** Most connections to one server. */
export const MAX_CONNECTIONS = 16;

export interface OpenNbdOptions {
  readonly logger: Logger;
  /** Refuse changes, whatever the server allows. Default false. */
  readonly readOnly?: boolean;
  /** From dialing to the end of the handshake, milliseconds. Default 10 s. */
  readonly connectTimeoutMs?: number;
  /**
   * A request that waits longer for its reply ends the connection, and is sent again on the next, milliseconds.
   * Default 0: never; a dead network is noticed by TCP's keepalive then.
   */
  readonly requestTimeoutMs?: number;
  /** How long requests wait for a lost server to come back before they fail with EIO, milliseconds. Default 30 s. */
  readonly reconnectTimeoutMs?: number;
  /** Requests that are sent before an answer is awaited. Default 128. */
  readonly maxInFlight?: number;
  /**
   * Connections to a server that says that it can take several (CAN_MULTI_CONN), 1 to 16. Requests are spread over
   * them; when one is lost all are renewed. Default 1: more may use up all that a server admits, and keep others out.
   */
  readonly connections?: number;
  /** How long close waits for requests in flight, and for the last FLUSH, milliseconds each. Default 10 s. */
  readonly closeTimeoutMs?: number;
  /**
   * Bytes of answered and not yet flushed changes that are kept, to be sent again to a server that may have
   * forgotten them; when half full they are flushed. 0 keeps none: then the first flush after a reconnect fails,
   * and other writers of the same blocks are safe from repeated changes. Default 64 MiB.
   */
  readonly unflushedBytes?: number;
  readonly backoff?: BackoffOptions;
}

/**
 * Connects to the export that `uri` names (nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; with TLS
 * nbds and nbds+unix, see {@link parseNbdUri}).
 * The first connection is tried once; later ones are renewed until the device is closed.
 * @throws UsageError when the URI is wrong
 * @throws OperationError when the server can't be reached, refuses, can't be trusted, or has an export that can't be
 *   used; also when the TLS files are missing or wrong
 */
export async function openNbdDevice(uri: string, options: OpenNbdOptions): Promise<NbdDevice> {
  const address = parseNbdUri(uri);
  const logger = options.logger.child({ upstream: uri });
  const security = address.tls && (await secure(address.tls, logger));
  const link = new NbdLink(
    address,
    security,
    {
      connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
      requestTimeoutMs: options.requestTimeoutMs ?? 0,
      reconnectTimeoutMs: options.reconnectTimeoutMs ?? 30_000,
      maxInFlight: options.maxInFlight ?? 128,
      connections: Math.max(1, Math.min(MAX_CONNECTIONS, options.connections ?? 1)),
      unflushedBytes: options.unflushedBytes ?? 64 * MiB,
      backoff: options.backoff ?? DEFAULT_BACKOFF,
    },
    logger,
  );
  try {
    const found = await link.open();
    return new NbdDevice(link, found, logger, {
      readOnly: options.readOnly ?? false,
      closeTimeoutMs: options.closeTimeoutMs ?? 10_000,
    });
  } catch (error) {
    await link.close();
    throw error instanceof Error ? openError(address, error) : error;
  }
}

async function secure(tls: NbdTls, logger: Logger): Promise<Security> {
  const { dir, pskFile, username, hostname } = tls;
  const credentials = await loadClientCredentials({ dir, pskFile, pskUser: username });
  for (const warning of credentials.warnings) logger.warn(warning);
  return { credentials, serverName: hostname };
}

export { type NbdAddress, parseNbdUri } from '../nbd-uri.ts';
export type { NbdDevice } from './device.ts';
