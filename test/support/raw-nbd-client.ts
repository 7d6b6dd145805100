// A bare NBD client for tests of the server: it sends what it is told, right or wrong, and shows what came back. It
// shares the protocol's numbers with the product, but none of its codecs.
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { connect as connectTls, type ConnectionOptions as TlsConnectionOptions } from 'node:tls';

export const CLIENT_FIXED = 1;
export const CLIENT_NO_ZEROES = 2;

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

export interface RequestSpec {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint | number;
  readonly length?: number;
  readonly data?: Buffer;
  readonly magic?: number;
}

export interface SimpleReply {
  readonly error: number;
  readonly cookie: bigint;
}

/** Bytes of one request with its payload. */
export function requestBytes(spec: RequestSpec): Buffer {
  const head = Buffer.alloc(28);
  head.writeUInt32BE(spec.magic ?? 0x25609513, 0);
  head.writeUInt16BE(spec.flags ?? 0, 4);
  head.writeUInt16BE(spec.type, 6);
  head.writeBigUInt64BE(spec.cookie ?? 0n, 8);
  head.writeBigUInt64BE(BigInt(spec.offset ?? 0), 16);
  head.writeUInt32BE(spec.length ?? spec.data?.length ?? 0, 24);
  return spec.data ? Buffer.concat([head, spec.data]) : head;
}

/** The same with extended headers. @param length what the header says: 64 bits */
export function extendedRequestBytes(
  spec: Omit<RequestSpec, 'length'> & { readonly length?: bigint | number },
): Buffer {
  const head = Buffer.alloc(32);
  head.writeUInt32BE(spec.magic ?? 0x21e41c71, 0);
  head.writeUInt16BE(spec.flags ?? (spec.data ? 32 : 0), 4);
  head.writeUInt16BE(spec.type, 6);
  head.writeBigUInt64BE(spec.cookie ?? 0n, 8);
  head.writeBigUInt64BE(BigInt(spec.offset ?? 0), 16);
  head.writeBigUInt64BE(BigInt(spec.length ?? spec.data?.length ?? 0), 24);
  return spec.data ? Buffer.concat([head, spec.data]) : head;
}

/** One chunk of a structured or extended reply, or a simple reply, told apart by their magic. */
export interface ReplyChunk {
  readonly style: 'simple' | 'structured' | 'extended';
  readonly cookie: bigint;
  /** Of a simple reply. */
  readonly error?: number;
  readonly done: boolean;
  readonly type: number;
  /** The request's, in an extended reply. */
  readonly offset?: bigint;
  readonly payload: Buffer;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function contextData(name: string, queries: readonly string[]): Buffer {
  const text = (value: string): Buffer => {
    const bytes = Buffer.from(value);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(bytes.length);
    return Buffer.concat([head, bytes]);
  };
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return Buffer.concat([text(name), count, ...queries.map(text)]);
}

/** Takes the reply apart that `bytes` begin with; undefined when it isn't whole. */
export function parseReply(
  bytes: Buffer,
): { readonly chunk: ReplyChunk; readonly length: number } | undefined {
  if (bytes.length < 16) return undefined;
  const magic = bytes.readUInt32BE(0);
  if (magic === 0x67446698) {
    const error = bytes.readUInt32BE(4);
    const cookie = bytes.readBigUInt64BE(8);
    const chunk = { style: 'simple', cookie, error, done: true, type: -1, payload: Buffer.alloc(0) } as const;
    return { chunk, length: 16 };
  }
  const extended = magic === 0x6e8a278c;
  if (!extended && magic !== 0x668e33ef) throw new Error(`wrong reply magic ${magic.toString(16)}`);
  const head = extended ? 32 : 20;
  if (bytes.length < head) return undefined;
  const size = extended ? Number(bytes.readBigUInt64BE(24)) : bytes.readUInt32BE(16);
  if (bytes.length < head + size) return undefined;
  const chunk: ReplyChunk = {
    style: extended ? 'extended' : 'structured',
    cookie: bytes.readBigUInt64BE(8),
    done: (bytes.readUInt16BE(4) & 1) === 1,
    type: bytes.readUInt16BE(6),
    ...(extended ? { offset: bytes.readBigUInt64BE(16) } : {}),
    payload: Buffer.from(bytes.subarray(head, head + size)),
  };
  return { chunk, length: head + size };
}

/** What an error chunk says. */
export function errorOf({ type, payload }: ReplyChunk): { error: number; message: string; offset?: bigint } {
  if (type !== 0x8001 && type !== 0x8002) throw new Error(`chunk type ${type} is no error`);
  const length = payload.readUInt16BE(4);
  const message = payload.toString('utf8', 6, 6 + length);
  const rest = payload.subarray(6 + length);
  if (rest.length !== (type === 0x8002 ? 8 : 0)) throw new Error('an error chunk of a wrong length');
  const error = payload.readUInt32BE(0);
  return type === 0x8002 ? { error, message, offset: rest.readBigUInt64BE(0) } : { error, message };
}

/** What a block status chunk says, of either kind. */
export function statusOf({ type, payload }: ReplyChunk): {
  contextId: number;
  runs: Array<[number, number]>;
} {
  const runs: Array<[number, number]> = [];
  if (type === 5) {
    if (payload.length < 12 || (payload.length - 4) % 8 !== 0) throw new Error('a wrong block status');
    for (let at = 4; at < payload.length; at += 8) {
      runs.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
    }
  } else {
    if (type !== 6 || payload.readUInt32BE(4) * 16 + 8 !== payload.length)
      throw new Error('a wrong block status');
    for (let at = 8; at < payload.length; at += 16) {
      runs.push([Number(payload.readBigUInt64BE(at)), Number(payload.readBigUInt64BE(at + 8))]);
    }
  }
  if (runs.length === 0) throw new Error('a block status without descriptors');
  return { contextId: payload.readUInt32BE(0), runs };
}

/** Bytes of one option. @param length what the header says, when it shall lie */
export function optionBytes(option: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer {
  const head = Buffer.alloc(16);
  head.write('IHAVEOPT', 'latin1');
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(length, 12);
  return Buffer.concat([head, data]);
}

/** Option data of INFO and GO. */
export function infoData(
  name: string | Buffer,
  requests: readonly number[] = [],
  nameLength?: number,
): Buffer {
  const text = Buffer.from(name as string);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(nameLength ?? text.length);
  const tail = Buffer.alloc(2 + requests.length * 2);
  tail.writeUInt16BE(requests.length);
  requests.forEach((request, i) => {
    tail.writeUInt16BE(request, 2 + i * 2);
  });
  return Buffer.concat([head, text, tail]);
}

export function clientFlagsBytes(flags = CLIENT_FIXED | CLIENT_NO_ZEROES): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
}

/** What a successful INFO or GO told. */
export interface ExportFacts {
  sizeBytes: bigint;
  transmissionFlags: number;
  name?: string;
  description?: string;
  blockSizes?: [number, number, number];
}

export class RawNbdClient {
  readonly socket: Socket;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #ended = false;
  #wake: (() => void) | undefined;
  /** The reset, if there was one. */
  error: Error | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.error = error;
    });
    for (const event of ['end', 'close'] as const) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake?.();
      });
    }
  }

  static connect(to: NetConnectOpts): Promise<RawNbdClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ ...to, allowHalfOpen: true }, () => resolve(new RawNbdClient(socket)));
      socket.once('error', reject);
    });
  }

  /** Connects, says hello, and goes into transmission. */
  static async open(to: NetConnectOpts, name = ''): Promise<RawNbdClient> {
    const client = await RawNbdClient.connect(to);
    await client.greet();
    await client.go(name);
    return client;
  }

  /** Whether the server closed its side, or the connection died. */
  get isEnded(): boolean {
    return this.#ended;
  }

  /** Bytes that arrived and were not read. */
  get bufferedBytes(): number {
    return this.#buffered;
  }

  send(...parts: readonly Buffer[]): void {
    for (const part of parts) this.socket.write(part);
  }

  /** Exactly `count` bytes. @throws Error when the connection ends before */
  async read(count: number): Promise<Buffer> {
    while (this.#buffered < count) {
      if (this.#ended) throw new Error(`the server closed; ${this.#buffered} of ${count} bytes arrived`);
      await this.#more();
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = count < all.length ? [all.subarray(count)] : [];
    this.#buffered -= count;
    return all.subarray(0, count);
  }

  /** Everything until the server closes. */
  async readToEnd(): Promise<Buffer> {
    while (!this.#ended) await this.#more();
    return this.read(this.#buffered);
  }

  /** Reads the greeting and answers it. @returns the handshake flags */
  async greet(flags = CLIENT_FIXED | CLIENT_NO_ZEROES): Promise<number> {
    const greeting = await this.read(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('not a newstyle server');
    this.send(clientFlagsBytes(flags));
    return greeting.readUInt16BE(16);
  }

  async readOptionReply(): Promise<OptionReply> {
    const head = await this.read(20);
    if (head.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error('wrong option reply magic');
    const data = Buffer.from(await this.read(head.readUInt32BE(16)));
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data };
  }

  /** STARTTLS, and TLS's handshake. @returns the client inside TLS; this one is of no use any more */
  async secure(options: TlsConnectionOptions): Promise<RawNbdClient> {
    const [reply] = await this.option(5);
    if (reply?.type !== 1)
      throw new Error(`STARTTLS failed with ${(reply?.type ?? 0) - 2 ** 31}: ${reply?.data}`);
    return this.tlsNow(options);
  }

  /** TLS's handshake, whatever was said before. @throws the error that ended it */
  async tlsNow(options: TlsConnectionOptions): Promise<RawNbdClient> {
    for (const event of ['data', 'end', 'close']) this.socket.removeAllListeners(event);
    const secure = connectTls({ ...options, socket: this.socket });
    await new Promise<void>((resolve, reject) => {
      secure.once('secureConnect', resolve).once('error', reject);
      secure.once('close', () => reject(new Error('the server closed during TLS')));
    });
    return new RawNbdClient(secure);
  }

  /** Sends an option and reads its replies, up to the ACK or error that ends them. */
  async option(option: number, data?: Buffer, length?: number): Promise<OptionReply[]> {
    this.send(optionBytes(option, data, length));
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.readOptionReply();
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 2 ** 31) return replies;
    }
  }

  /** GO. @throws Error with the server's message when it refuses */
  async go(name = '', requests: readonly number[] = []): Promise<ExportFacts> {
    const replies = await this.option(7, infoData(name, requests));
    const last = replies.at(-1)!;
    if (last.type !== 1) throw new Error(`GO failed with ${last.type - 2 ** 31}: ${last.data}`);
    return exportFacts(replies);
  }

  async readReply(): Promise<SimpleReply> {
    const head = await this.read(16);
    if (head.readUInt32BE(0) !== 0x67446698) throw new Error(`wrong reply magic ${head.toString('hex')}`);
    return { error: head.readUInt32BE(4), cookie: head.readBigUInt64BE(8) };
  }

  /** Sends one request and reads its reply. @returns the error value, and the data of a READ that worked */
  async request(spec: RequestSpec): Promise<{ error: number; data: Buffer }> {
    this.send(requestBytes(spec));
    const { error, cookie } = await this.readReply();
    if (cookie !== (spec.cookie ?? 0n)) throw new Error(`cookie ${cookie} came back for ${spec.cookie}`);
    const isRead = spec.type === 0 && error === 0;
    return { error, data: isRead ? Buffer.from(await this.read(spec.length ?? 0)) : Buffer.alloc(0) };
  }

  /** Leaves without a word, and waits until the connection is gone. */
  async destroy(): Promise<void> {
    if (this.socket.closed) return;
    const gone = new Promise((resolve) => this.socket.once('close', resolve));
    this.socket.destroy();
    await gone;
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

/** Collects what the INFO replies among `replies` tell. */
export function exportFacts(replies: readonly OptionReply[]): ExportFacts {
  const facts: ExportFacts = { sizeBytes: -1n, transmissionFlags: 0 };
  for (const { type, data } of replies) {
    if (type !== 3) continue;
    const kind = data.readUInt16BE(0);
    if (kind === 0) {
      facts.sizeBytes = data.readBigUInt64BE(2);
      facts.transmissionFlags = data.readUInt16BE(10);
    } else if (kind === 1) facts.name = data.toString('utf8', 2);
    else if (kind === 2) facts.description = data.toString('utf8', 2);
    else if (kind === 3)
      facts.blockSizes = [data.readUInt32BE(2), data.readUInt32BE(6), data.readUInt32BE(10)];
  }
  return facts;
}
