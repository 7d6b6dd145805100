// One connection to an NBD server, from dialing to its end: socket, TLS, handshake, pipelined requests. It never decides
// to reconnect, answers no request after it reported its loss (what is unanswered then, its owner takes back), and
// never goes on without TLS where that is asked for.
import { connect, type Socket } from 'node:net';
import { errorMessage } from '../../base/errors.ts';
import { KiB, MiB } from '../../base/limits.ts';
import { HandshakeError } from '../../nbdwire/client-error.ts';
import type { NbdExport } from '../../nbdwire/client-export.ts';
import { ClientHandshake } from '../../nbdwire/client-handshake.ts';
import { ReplyParser } from '../../nbdwire/client-replies.ts';
import {
  disconnectRequest,
  encodeExtendedRequest,
  encodeRequest,
  MAX_EFFECT_BYTES,
} from '../../nbdwire/client-requests.ts';
import {
  NBD_CMD,
  NBD_ERROR,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_REQUEST_BYTES,
} from '../../nbdwire/constants.ts';
import { stopLocalPacing } from '../../transport/local-peer.ts';
import { connectTls } from '../../transport/tls-client.ts';
import type { ClientCredentials } from '../../transport/tls-credentials.ts';
import { WireError } from '../../wire/struct.ts';
import type { NbdAddress } from '../nbd-uri.ts';
import { cookieLow, InFlight } from './in-flight.ts';
import type { Request } from './request.ts';

/** Bytes that one read from the socket may bring. */
const RECEIVE_BYTES = 256 * KiB;

/** Payload after which a batch is closed: small enough that its first reply isn't held up by the last byte. */
const BATCH_BYTES = 1 * MiB;

const KEEPALIVE_AFTER_MS = 15_000;

export interface ConnectionOptions {
  /** From dialing to the end of the handshake, milliseconds. */
  readonly connectTimeoutMs: number;
  /** A request that waits longer for its reply ends the connection, milliseconds; 0 waits for ever. */
  readonly requestTimeoutMs: number;
  readonly maxInFlight: number;
}

/** How a connection is secured; there is no way without once this is given. */
export interface Security {
  readonly credentials: ClientCredentials;
  /** The name or address that the server's certificate must be for. */
  readonly serverName: string;
}

export interface ConnectionOwner {
  connected(connection: Connection): void;
  ready(connection: Connection, found: NbdExport): void;
  /** The request to send next on this connection, or undefined. Called only while there is room. */
  nextToSend(connection: Connection): Request | undefined;
  /** The error, never ESHUTDOWN, is in `request.progress`. The request's buffers are no longer in use. */
  answered(request: Request): void;
  /** The server answered ESHUTDOWN: it wants to be left. The request stays unanswered. */
  refused(connection: Connection): void;
  /** The connection is over. Called once, and last. */
  lost(connection: Connection, error: Error): void;
}

export class Connection {
  readonly #owner: ConnectionOwner;
  readonly #options: ConnectionOptions;
  readonly #security: Security | undefined;
  #socket: Socket;
  readonly #handshake: ClientHandshake;
  #replies: ReplyParser<Request> | undefined;
  #export: NbdExport | undefined;
  readonly #inFlight: InFlight;
  readonly #headers: Buffer;
  readonly #connectTimer: NodeJS.Timeout;
  #requestTimer: NodeJS.Timeout | undefined;
  #leaveTimer: NodeJS.Timeout | undefined;
  #lost = false;
  #pumpScheduled = false;
  #sending = false;
  #disconnecting = false;
  #draining = false;
  #graceMs = 0;
  #batch = 0;
  /** Written chunk that waits to learn whether it is its batch's last. */
  #heldChunk: Buffer | undefined;
  /** WRITEs that were answered before the last of their batch had left. */
  #early: Request[] = [];
  #answers = 0;

  constructor(
    address: NbdAddress,
    security: Security | undefined,
    options: ConnectionOptions,
    owner: ConnectionOwner,
  ) {
    this.#owner = owner;
    this.#options = options;
    this.#security = security;
    this.#inFlight = new InFlight(options.maxInFlight);
    this.#headers = Buffer.allocUnsafeSlow(options.maxInFlight * NBD_EXTENDED_REQUEST_BYTES);
    this.#handshake = new ClientHandshake(
      { exportName: address.exportName, tls: security !== undefined },
      (bytes) => this.#socket.write(bytes),
    );
    this.#socket = connect({
      ...(address.kind === 'tcp' ? { host: address.host, port: address.port } : { path: address.path }),
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_AFTER_MS,
      // TLS takes the socket over, and has no use for the buffer.
      ...(security === undefined && {
        onread: {
          buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
          callback: (bytes: number, buffer: Uint8Array) => this.#received(buffer as Buffer, bytes),
        },
      }),
    });
    this.#socket.on('connect', () => {
      stopLocalPacing(this.#socket);
      this.#owner.connected(this);
    });
    this.#listen();
    this.#connectTimer = setTimeout(() => {
      const what = this.#socket.connecting ? 'could not connect' : 'no NBD handshake';
      this.abandon(new Error(`${what} within ${options.connectTimeoutMs} ms`));
    }, options.connectTimeoutMs);
  }

  /** Replies that arrived: whether the server does its work. */
  get answers(): number {
    return this.#answers;
  }

  get outstanding(): number {
    return this.#inFlight.size;
  }

  /** There may be requests to send: asks for them once whatever runs now has ended, so that they leave together. */
  wake(): void {
    if (this.#pumpScheduled || this.#sending) return;
    this.#pumpScheduled = true;
    process.nextTick(this.#pump);
  }

  /** Tells the server that this was all, and gives it `graceMs` to send its last replies and to end the connection. */
  disconnect(graceMs: number): void {
    if (this.#disconnecting || this.#lost) return;
    this.#disconnecting = true;
    clearTimeout(this.#leaveTimer);
    if (!this.#export) {
      this.abandon(new Error('closed during the handshake'));
      return;
    }
    this.#socket.end(disconnectRequest(this.#export.style === 'extended'));
    this.#leaveTimer = setTimeout(
      () => this.abandon(new Error('the server did not end the connection')),
      graceMs,
    );
  }

  /** Sends nothing new, and disconnects once everything is answered, or after `waitMs`. */
  drain(waitMs: number, graceMs: number): void {
    if (this.#draining || this.#disconnecting || this.#lost) return;
    this.#draining = true;
    this.#graceMs = graceMs;
    if (this.#inFlight.size === 0) this.disconnect(graceMs);
    else {
      this.#leaveTimer = setTimeout(() => this.abandon(new Error('requests were left unanswered')), waitMs);
    }
  }

  /** Ends the connection now. */
  abandon(reason: Error): void {
    if (this.#lost) return;
    this.#lost = true;
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#leaveTimer);
    clearInterval(this.#requestTimer);
    this.#socket.destroy();
    this.#owner.lost(this, reason);
  }

  /** After the loss: what was sent and not answered, in order of submission. */
  takeUnanswered(): Request[] {
    return this.#inFlight.takeAll();
  }

  readonly #pump = (): void => {
    this.#pumpScheduled = false;
    if (this.#lost || this.#sending || this.#disconnecting || this.#draining) return;
    let headersEnd = 0;
    let headersStart = 0;
    let payloadBytes = 0;
    this.#batch += 1;
    while (!this.#inFlight.full && payloadBytes < BATCH_BYTES) {
      const request = this.#owner.nextToSend(this);
      if (!request) break;
      if (!this.#canCarry(request)) continue;
      if (headersEnd === 0) this.#socket.cork();
      headersEnd = this.#stage(request, headersEnd);
      if (request.command === NBD_CMD.WRITE && request.buffer) {
        this.#write(this.#headers.subarray(headersStart, headersEnd));
        this.#write(request.buffer);
        headersStart = headersEnd;
        payloadBytes += request.length;
      }
    }
    if (headersEnd === 0) return;
    if (headersStart < headersEnd) this.#write(this.#headers.subarray(headersStart, headersEnd));
    this.#sending = true;
    this.#socket.write(this.#heldChunk!, this.#sent);
    this.#heldChunk = undefined;
    this.#socket.uncork();
  };

  /** A server that came back may know less than when the request was made: then the request is answered here. */
  #canCarry(request: Request): boolean {
    const { style, allocationId } = this.#export!;
    let error: number = NBD_ERROR.OK;
    if (request.command === NBD_CMD.BLOCK_STATUS && allocationId === undefined) error = NBD_ERROR.ENOTSUP;
    else if (request.length > MAX_EFFECT_BYTES && style !== 'extended') error = NBD_ERROR.EOVERFLOW;
    if (error === NBD_ERROR.OK) return true;
    request.progress.begin(request.offset, request.length);
    request.progress.fail(error, '');
    this.#owner.answered(request);
    return false;
  }

  /** @returns where the next header goes */
  #stage(request: Request, at: number): number {
    this.#inFlight.add(request);
    request.batch = this.#batch;
    request.progress.begin(request.offset, request.length);
    request.status?.reset(request.length);
    if (this.#requestTimer) request.sentAtMs = performance.now();
    const { command, flags, offset, length, slot } = request;
    if (this.#export!.style === 'extended') {
      encodeExtendedRequest(this.#headers, at, command, flags, slot, cookieLow(request), offset, length);
      return at + NBD_EXTENDED_REQUEST_BYTES;
    }
    encodeRequest(this.#headers, at, command, flags, slot, cookieLow(request), offset, length);
    return at + NBD_REQUEST_BYTES;
  }

  /** One chunk behind, so that the last write of a batch can carry the callback. */
  #write(chunk: Buffer): void {
    if (this.#heldChunk) this.#socket.write(this.#heldChunk);
    this.#heldChunk = chunk;
  }

  /** The kernel has all of the batch: its headers may be overwritten, its payloads given back. */
  readonly #sent = (): void => {
    if (this.#lost) return;
    this.#sending = false;
    if (this.#early.length > 0) {
      for (const request of this.#early.splice(0)) this.#finish(request);
    }
    this.wake();
  };

  readonly #onData = (chunk: Buffer): void => {
    this.#received(chunk, chunk.length);
  };
  readonly #onEnd = (): void => this.#ended();
  readonly #onError = (error: Error): void => this.abandon(error);
  readonly #onClose = (): void => this.abandon(new Error('the connection was closed'));

  #listen(): void {
    if (this.#security !== undefined) this.#socket.on('data', this.#onData);
    this.#socket.on('end', this.#onEnd).on('error', this.#onError).on('close', this.#onClose);
  }

  #received(buffer: Buffer, bytes: number): boolean {
    if (this.#lost) return false;
    try {
      let start = 0;
      if (!this.#replies) start = this.#negotiate(buffer.subarray(0, bytes));
      if (this.#replies && !this.#lost) this.#replies.push(buffer, start, bytes);
    } catch (error) {
      if (error instanceof WireError) this.#broken(error);
      else if (error instanceof HandshakeError) this.abandon(error);
      else throw error;
    }
    return !this.#lost;
  }

  /** The server broke the protocol: notes in reply to what, as it may happen again in reply to the same. */
  #broken(error: WireError): void {
    const culprit = this.#replies?.current;
    if (culprit) culprit.breaks += 1;
    else for (const request of this.#inFlight) request.breaks += 1;
    this.abandon(new Error(`the server broke the protocol: ${error.message}`, { cause: error }));
  }

  #negotiate(chunk: Buffer): number {
    const used = this.#handshake.push(chunk);
    if (this.#handshake.state === 'securing') this.#secure();
    const found = this.#handshake.result;
    if (!found) return used;
    this.#export = found;
    this.#replies = new ReplyParser(found.style, found.allocationId, {
      find: (high, low) => this.#inFlight.find(high, low),
      completed: (request) => this.#completed(request),
    });
    clearTimeout(this.#connectTimer);
    this.#watchRequests();
    this.#owner.ready(this, found);
    return used;
  }

  /** TLS takes the socket over; what is said from here on is said through it. */
  #secure(): void {
    const { credentials, serverName } = this.#security!;
    this.#socket.off('data', this.#onData).off('end', this.#onEnd);
    this.#socket.off('error', this.#onError).off('close', this.#onClose);
    connectTls(this.#socket, credentials, { serverName, timeoutMs: this.#options.connectTimeoutMs }).then(
      (secure) => {
        if (this.#lost) {
          secure.on('error', () => {}).destroy();
          return;
        }
        this.#socket = secure;
        this.#listen();
        this.#handshake.secured();
      },
      (error: Error) => this.abandon(error),
    );
  }

  #completed(request: Request): void {
    if (request.progress.error === NBD_ERROR.ESHUTDOWN) {
      this.#owner.refused(this);
      return;
    }
    this.#answers += 1;
    // A server may refuse a WRITE before it has read all of it; the data is lent until it has left.
    const leaving = request.command === NBD_CMD.WRITE && this.#sending && request.batch === this.#batch;
    if (leaving) this.#early.push(request);
    else this.#finish(request);
  }

  #finish(request: Request): void {
    this.#inFlight.remove(request);
    this.#owner.answered(request);
    if (this.#draining && this.#inFlight.size === 0) this.disconnect(this.#graceMs);
    else this.wake();
  }

  #ended(): void {
    if (!this.#replies) this.abandon(this.#handshake.ended());
    else if (this.#replies.atBoundary) this.abandon(new Error('the server closed the connection'));
    else this.abandon(new Error('the server closed the connection in the middle of a reply'));
  }

  #watchRequests(): void {
    const limitMs = this.#options.requestTimeoutMs;
    if (limitMs <= 0) return;
    this.#requestTimer = setInterval(
      () => {
        const oldest = this.#inFlight.oldest();
        if (!oldest || performance.now() - oldest.sentAtMs < limitMs) return;
        this.abandon(new Error(`no answer to ${oldest} within ${limitMs} ms`));
      },
      Math.max(10, Math.min(1000, limitMs / 4)),
    );
  }
}

/** What a lost connection is told as. */
export function lossMessage(error: Error): string {
  // A host with several addresses fails with all of their errors at once.
  if (error instanceof AggregateError) return error.errors.map(errorMessage).join('; ');
  return error.message;
}
