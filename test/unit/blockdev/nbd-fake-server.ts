// An NBD server for tests of the client: in this process, over a disk whose cache can be lost, holding or answering
// requests as the test says. Handshakes come from the package's own server codec unless a test writes the bytes.

import type { AddressInfo } from 'node:net';
import { createServer, type Server, type Socket } from 'node:net';
import { MiB } from '../../../src/base/limits.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG_FUA,
  NBD_ERROR,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_OPT,
  NBD_REP_ERR,
  NBD_REQUEST_BYTES,
  nameOf,
} from '../../../src/nbdwire/constants.ts';
import { encodeSimpleReply } from '../../../src/nbdwire/reply.ts';
import { decodeRequest, RequestHeader } from '../../../src/nbdwire/request.ts';
import { ServerHandshake } from '../../../src/nbdwire/server-handshake.ts';
import { encodeOptionError } from '../../../src/nbdwire/server-options.ts';
import { waitUntil } from '../../support/wait-until.ts';

export const ALL_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_CACHE;

/** One request as it arrived, and the way to answer it. */
export class FakeRequest {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer | undefined;
  readonly connection: number;
  readonly socket: Socket;
  readonly #cookieHigh: number;
  readonly #cookieLow: number;

  constructor(header: RequestHeader, data: Buffer | undefined, connection: number, socket: Socket) {
    this.type = header.type;
    this.flags = header.flags;
    this.offset = header.offset;
    this.length = header.length;
    this.#cookieHigh = header.cookieHigh;
    this.#cookieLow = header.cookieLow;
    this.data = data;
    this.connection = connection;
    this.socket = socket;
  }

  /** `WRITE+1 4096..8192` */
  toString(): string {
    const flags = this.flags === 0 ? '' : `+${this.flags}`;
    return `${nameOf(NBD_CMD, this.type)}${flags} ${this.offset}..${this.offset + this.length}`;
  }

  /** The bytes of a reply. */
  bytes(error = 0, data?: Buffer): Buffer {
    const header = Buffer.alloc(16);
    encodeSimpleReply(header, 0, error, this.#cookieHigh, this.#cookieLow);
    return data ? Buffer.concat([header, data]) : header;
  }

  reply(error = 0, data?: Buffer): void {
    if (!this.socket.destroyed) this.socket.write(this.bytes(error, data));
  }
}

export interface FakeServerOptions {
  readonly sizeBytes?: number;
  readonly flags?: number;
  readonly minBlockBytes?: number;
  readonly preferredBlockBytes?: number;
  readonly maxPayloadBytes?: number;
}

export class FakeNbdServer {
  sizeBytes: number;
  flags: number;
  minBlockBytes: number;
  preferredBlockBytes: number;
  maxPayloadBytes: number;
  /** What a restart would find, and what clients see. */
  durable: Buffer;
  cached: Buffer;
  /** Every request of every connection, in order of arrival. */
  readonly requests: FakeRequest[] = [];
  /** Connections accepted since the start. */
  connections = 0;
  /** Decides about a request: true when it has been dealt with. Others are carried out and answered. */
  intercept: (request: FakeRequest) => boolean = () => false;
  /** Takes a connection over, before the handshake. */
  takeOver: ((socket: Socket, number: number) => boolean) | undefined;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  constructor(options: FakeServerOptions = {}) {
    this.sizeBytes = options.sizeBytes ?? 1 * MiB;
    this.flags = options.flags ?? ALL_FLAGS;
    this.minBlockBytes = options.minBlockBytes ?? 1;
    this.preferredBlockBytes = options.preferredBlockBytes ?? 4096;
    this.maxPayloadBytes = options.maxPayloadBytes ?? 32 * MiB;
    this.durable = Buffer.alloc(this.sizeBytes);
    this.cached = Buffer.alloc(this.sizeBytes);
  }

  get uri(): string {
    return `nbd://127.0.0.1:${this.#port}/disk`;
  }

  get openConnections(): number {
    return this.#sockets.size;
  }

  /** What arrived, in short. */
  get log(): string[] {
    return this.requests.map(String);
  }

  async start(): Promise<this> {
    const server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
    return this;
  }

  /** Stops accepting and cuts every connection; the disk stays as clients saw it. */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.cut();
    if (server) await new Promise<void>((resolve) => server.close(() => resolve()));
  }

  /** Stops as a machine that lost its power. */
  async crash(): Promise<void> {
    await this.stop();
    this.durable.copy(this.cached);
  }

  /** Cuts every connection and goes on accepting. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The requests of one kind. */
  of(type: number): FakeRequest[] {
    return this.requests.filter((request) => request.type === type);
  }

  /** Waits until `count` requests have arrived. */
  async arrived(count: number): Promise<void> {
    await waitUntil(() => this.requests.length >= count, { what: `${count} requests`, intervalMs: 1 });
  }

  /** Carries a request out on the disk and returns the READ's data. */
  execute(request: FakeRequest): Buffer | undefined {
    const { type, offset, length } = request;
    if (type === NBD_CMD.READ) return Buffer.from(this.cached.subarray(offset, offset + length));
    if (type === NBD_CMD.WRITE) request.data!.copy(this.cached, offset);
    if (type === NBD_CMD.WRITE_ZEROES) this.cached.fill(0, offset, offset + length);
    if (type === NBD_CMD.FLUSH) this.cached.copy(this.durable);
    if ((request.flags & NBD_CMD_FLAG_FUA) !== 0) {
      this.cached.copy(this.durable, offset, offset, offset + length);
    }
    return undefined;
  }

  /** Carries out and answers. */
  serve(request: FakeRequest): void {
    request.reply(NBD_ERROR.OK, this.execute(request));
  }

  #accept(socket: Socket): void {
    const number = this.connections;
    this.connections += 1;
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {});
    if (this.takeOver?.(socket, number)) return;
    const found = {
      name: 'disk',
      description: undefined,
      sizeBytes: this.sizeBytes,
      transmissionFlags: this.flags,
      minBlockBytes: this.minBlockBytes,
      preferredBlockBytes: this.preferredBlockBytes,
      maxPayloadBytes: this.maxPayloadBytes,
      contexts: [],
    };
    const handshake = new ServerHandshake({
      list: () => [found],
      find: (name) => (name === 'disk' ? found : undefined),
    });
    const header = new RequestHeader();
    let pending: Buffer = Buffer.alloc(0);
    const send = (): void => {
      for (const bytes of handshake.takeOutput()) socket.write(bytes);
    };
    send();
    socket.on('data', (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      while (!handshake.outcome) {
        if (refuseStyles(socket, pending)) {
          pending = pending.subarray(16);
          continue;
        }
        const used = handshake.step(pending, 0, pending.length);
        pending = pending.subarray(used);
        send();
        if (used === 0) return;
      }
      if (handshake.outcome.kind !== 'transmission') socket.end();
      while (pending.length >= NBD_REQUEST_BYTES) {
        if (!decodeRequest(pending, 0, header)) throw new Error('the client sent a wrong request magic');
        const payload = header.type === NBD_CMD.WRITE ? header.length : 0;
        if (pending.length < NBD_REQUEST_BYTES + payload) return;
        const end = NBD_REQUEST_BYTES + payload;
        const data = payload > 0 ? Buffer.from(pending.subarray(NBD_REQUEST_BYTES, end)) : undefined;
        pending = pending.subarray(end);
        this.#take(new FakeRequest(header, data, number, socket), socket);
      }
    });
  }

  #take(request: FakeRequest, socket: Socket): void {
    this.requests.push(request);
    const taken = this.intercept(request);
    if (request.type === NBD_CMD.DISC) socket.end();
    else if (!taken) this.serve(request);
  }
}

/** This server knows compact requests and simple replies alone: refuses the options that begin something else. */
function refuseStyles(socket: Socket, pending: Buffer): boolean {
  if (pending.length < 16 || pending.toString('latin1', 0, 8) !== 'IHAVEOPT') return false;
  const option = pending.readUInt32BE(8);
  if (option !== NBD_OPT.STRUCTURED_REPLY && option !== NBD_OPT.EXTENDED_HEADERS) return false;
  socket.write(encodeOptionError(option, { error: NBD_REP_ERR.UNSUP, message: 'not here' }));
  return true;
}
