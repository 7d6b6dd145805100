// One connection to an NBD server, from dialing to its end: socket, handshake, pipelined requests. It never decides
// to reconnect, and answers no request after it reported its loss: what is unanswered then, its owner takes back.
import { connect, type Socket } from 'node:net';
import { errorMessage } from '../../base/errors.ts';
import { KiB, MiB } from '../../base/limits.ts';
import { HandshakeError } from '../../nbdwire/client-error.ts';
import type { NbdExport } from '../../nbdwire/client-export.ts';
import { ClientHandshake } from '../../nbdwire/client-handshake.ts';
import { ReplyParser } from '../../nbdwire/client-replies.ts';
import { disconnectRequest, encodeRequest } from '../../nbdwire/client-requests.ts';
import { NBD_CMD, NBD_ERROR, NBD_REQUEST_BYTES } from '../../nbdwire/constants.ts';
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

export interface ConnectionOwner {
  connected(): void;
  ready(found: NbdExport): void;
  /** The request to send next on this connection, or undefined. Called only while there is room. */
  nextToSend(): Request | undefined;
  /** `error` is 0 or an NBD error value, never ESHUTDOWN. The request's buffers are no longer in use. */
  answered(request: Request, error: number): void;
  /** The server answered ESHUTDOWN: it wants to be left. The request stays unanswered. */
  refused(): void;
  /** The connection is over. Called once, and last. */
  lost(error: Error): void;
}

export class Connection {
  readonly #owner: ConnectionOwner;
  readonly #options: ConnectionOptions;
  readonly #socket: Socket;
  readonly #handshake: ClientHandshake;
  readonly #replies: ReplyParser;
  readonly #inFlight: InFlight;
  readonly #headers: Buffer;
  readonly #connectTimer: NodeJS.Timeout;
  #requestTimer: NodeJS.Timeout | undefined;
  #leaveTimer: NodeJS.Timeout | undefined;
  #established = false;
  #lost = false;
  #pumpScheduled = false;
  #sending = false;
  #disconnecting = false;
  #batch = 0;
  /** Written chunk that waits to learn whether it is its batch's last. */
  #heldChunk: Buffer | undefined;
  /** The READ whose payload is arriving. */
  #reading: Request | undefined;
  /** WRITEs that were answered before the last of their batch had left. */
  #early: Request[] = [];
  #answers = 0;

  constructor(address: NbdAddress, options: ConnectionOptions, owner: ConnectionOwner) {
    this.#owner = owner;
    this.#options = options;
    this.#inFlight = new InFlight(options.maxInFlight);
    this.#headers = Buffer.allocUnsafeSlow(options.maxInFlight * NBD_REQUEST_BYTES);
    this.#handshake = new ClientHandshake(address.exportName, (bytes) => this.#socket.write(bytes));
    this.#replies = new ReplyParser({
      replied: (high, low, error) => this.#replied(high, low, error),
      filled: () => this.#filled(),
    });
    this.#socket = connect({
      ...(address.kind === 'tcp' ? { host: address.host, port: address.port } : { path: address.path }),
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_AFTER_MS,
      onread: {
        buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
        callback: (bytes: number, buffer: Uint8Array) => this.#received(buffer as Buffer, bytes),
      },
    });
    this.#socket.on('connect', () => this.#owner.connected());
    this.#socket.on('end', () => this.#ended());
    this.#socket.on('error', (error) => this.abandon(error));
    this.#socket.on('close', () => this.abandon(new Error('the connection was closed')));
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
    if (!this.#established) {
      this.abandon(new Error('closed during the handshake'));
      return;
    }
    this.#socket.end(disconnectRequest());
    this.#leaveTimer = setTimeout(
      () => this.abandon(new Error('the server did not end the connection')),
      graceMs,
    );
  }

  /** Ends the connection now. */
  abandon(reason: Error): void {
    if (this.#lost) return;
    this.#lost = true;
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#leaveTimer);
    clearInterval(this.#requestTimer);
    this.#socket.destroy();
    this.#owner.lost(reason);
  }

  /** After the loss: what was sent and not answered, in order of submission. */
  takeUnanswered(): Request[] {
    return this.#inFlight.takeAll();
  }

  readonly #pump = (): void => {
    this.#pumpScheduled = false;
    if (this.#lost || this.#sending || this.#disconnecting) return;
    let headersEnd = 0;
    let headersStart = 0;
    let payloadBytes = 0;
    this.#batch += 1;
    while (!this.#inFlight.full && payloadBytes < BATCH_BYTES) {
      const request = this.#owner.nextToSend();
      if (!request) break;
      if (headersEnd === 0) this.#socket.cork();
      this.#stage(request, headersEnd);
      headersEnd += NBD_REQUEST_BYTES;
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

  #stage(request: Request, at: number): void {
    this.#inFlight.add(request);
    request.batch = this.#batch;
    request.error = NBD_ERROR.OK;
    if (this.#requestTimer) request.sentAtMs = performance.now();
    const { command, flags, offset, length, slot } = request;
    encodeRequest(this.#headers, at, command, flags, slot, cookieLow(request), offset, length);
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
      for (const request of this.#early.splice(0)) this.#finish(request, request.error);
    }
    this.wake();
  };

  #received(buffer: Buffer, bytes: number): boolean {
    if (this.#lost) return false;
    try {
      let start = 0;
      if (!this.#established) start = this.#negotiate(buffer.subarray(0, bytes));
      if (this.#established && !this.#lost) this.#replies.push(buffer, start, bytes);
    } catch (error) {
      if (!(error instanceof WireError) && !(error instanceof HandshakeError)) throw error;
      this.abandon(error);
    }
    return !this.#lost;
  }

  #negotiate(chunk: Buffer): number {
    const used = this.#handshake.push(chunk);
    const found = this.#handshake.result;
    if (!found) return used;
    this.#established = true;
    clearTimeout(this.#connectTimer);
    this.#watchRequests();
    this.#owner.ready(found);
    return used;
  }

  #replied(cookieHigh: number, low: number, error: number): Buffer | undefined {
    const request = this.#inFlight.find(cookieHigh, low);
    if (error === NBD_ERROR.ESHUTDOWN) {
      this.#owner.refused();
      return undefined;
    }
    this.#answers += 1;
    if (request.command === NBD_CMD.READ && error === NBD_ERROR.OK) {
      this.#reading = request;
      return request.buffer;
    }
    // A server may refuse a WRITE before it has read all of it; the data is lent until it has left.
    if (request.command === NBD_CMD.WRITE && this.#sending && request.batch === this.#batch) {
      if (this.#early.includes(request)) throw new WireError(`two replies to ${request}`);
      request.error = error;
      this.#early.push(request);
    } else this.#finish(request, error);
    return undefined;
  }

  #filled(): void {
    const request = this.#reading!;
    this.#reading = undefined;
    this.#finish(request, NBD_ERROR.OK);
  }

  #finish(request: Request, error: number): void {
    this.#inFlight.remove(request);
    this.#owner.answered(request, error);
    this.wake();
  }

  #ended(): void {
    if (!this.#established) this.abandon(this.#handshake.ended());
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
