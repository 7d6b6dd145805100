// A hub that does what a test tells it, over real loopback sockets: with the extensions, by the RFC alone, or silent.
// It keeps every message that an agent sent. What it does by itself is only the handshake.
import { randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import * as encode from '../../src/repwire/encode.ts';
import { FrameParser } from '../../src/repwire/frame-parser.ts';
import type { RepMessage, RepMessageKind, ReportedVolume } from '../../src/repwire/messages.ts';
import { waitUntil } from './wait-until.ts';

/** The message of a kind, also when it shares its shape with another kind. */
export type MessageOf<K extends RepMessageKind, M extends RepMessage = RepMessage> = M extends unknown
  ? K extends M['kind']
    ? M
    : never
  : never;

export interface FakeHubOptions {
  /** `silent` accepts and says nothing. */
  readonly mode?: 'hello' | 'rfc' | 'silent';
  readonly id?: Buffer;
  readonly epoch?: bigint;
  readonly pingIntervalMs?: number;
  /** Feature bits of its HELLO. */
  readonly features?: number;
  /** Sends START_PROTECT for reported volumes once the handshake is done. Default true. */
  readonly starts?: boolean;
  /** What START_PROTECT says of a volume. Default: nothing was kept. */
  readonly resumeSequence?: (name: string) => number | null;
}

export class FakeHub {
  mode: 'hello' | 'rfc' | 'silent';
  starts: boolean;
  readonly features: number;
  id: Buffer;
  epoch: bigint;
  resumeSequence: (name: string) => number | null;
  /** Answers PING. */
  pongs = true;
  /** Closes connections as soon as they come. */
  refuses = false;
  /** Connections in order; the last is the present one. */
  readonly connections: FakeConnection[] = [];
  /** Told of every message before the hub acts on it itself; what it returns true for, the hub leaves alone. */
  onMessage: (connection: FakeConnection, message: RepMessage) => boolean | undefined = () => undefined;
  onConnection: (connection: FakeConnection) => void = () => {};
  readonly pingIntervalMs: number;
  readonly #server: Server;
  #port = 0;

  private constructor(options: FakeHubOptions) {
    this.mode = options.mode ?? 'hello';
    this.features = options.features ?? 0;
    this.starts = options.starts ?? true;
    this.id = options.id ?? randomBytes(16);
    this.epoch = options.epoch ?? randomBytes(8).readBigUInt64LE();
    this.pingIntervalMs = options.pingIntervalMs ?? 0;
    this.resumeSequence = options.resumeSequence ?? (() => null);
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** @param port 0: any that is free */
  static async listen(options: FakeHubOptions = {}, port = 0): Promise<FakeHub> {
    const hub = new FakeHub(options);
    await new Promise<void>((resolve, reject) => {
      hub.#server.once('error', reject);
      hub.#server.listen(port, '127.0.0.1', resolve);
    });
    const address = hub.#server.address();
    if (typeof address !== 'object' || !address) throw new Error('no address');
    hub.#port = address.port;
    return hub;
  }

  get port(): number {
    return this.#port;
  }

  /** The newest connection. */
  get connection(): FakeConnection {
    const connection = this.connections.at(-1);
    if (!connection) throw new Error('no agent has connected');
    return connection;
  }

  /** Waits for the connection of that number, counted from 1, to have started `volumes` volumes. */
  async started(nth = 1, volumes = 1): Promise<FakeConnection> {
    await waitUntil(() => this.connections.length >= nth, { what: `connection ${nth}`, intervalMs: 2 });
    const connection = this.connections[nth - 1]!;
    await waitUntil(() => connection.started.size >= volumes, { what: 'START_PROTECT', intervalMs: 2 });
    return connection;
  }

  /** Another life: it has forgotten everything. */
  reborn(): void {
    this.epoch = randomBytes(8).readBigUInt64LE();
  }

  async close(): Promise<void> {
    for (const connection of this.connections) connection.cut();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #accept(socket: Socket): void {
    if (this.refuses) {
      socket.destroy();
      return;
    }
    const connection = new FakeConnection(socket, this);
    this.connections.push(connection);
    this.onConnection(connection);
  }
}

export class FakeConnection {
  /** Every message so far; payloads are copies. */
  readonly messages: RepMessage[] = [];
  /** Ids by name of the volumes that were started. */
  readonly started = new Map<string, bigint>();
  /** Reports so far, newest last. */
  readonly reports: ReportedVolume[][] = [];
  readonly #socket: Socket;
  readonly #hub: FakeHub;
  readonly #parser: FrameParser;
  #held: Buffer = Buffer.alloc(0);
  #said = false;
  #isCut = false;
  #bytesLeft = Number.POSITIVE_INFINITY;
  /** The agent's end of the connection is over. */
  ended = false;
  /** The hub has ended it, whether the agent knows yet or not. */
  over = false;
  /** What was wrong with the agent's bytes. */
  error: Error | undefined;

  constructor(socket: Socket, hub: FakeHub) {
    this.#socket = socket;
    this.#hub = hub;
    this.#parser = new FrameParser((message) => {
      this.#take(copyOf(message));
      return true;
    });
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#arrived(chunk));
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    socket.on('close', () => {
      this.ended = true;
    });
  }

  send(...parts: Buffer[]): void {
    if (!this.#socket.destroyed) this.#socket.write(Buffer.concat(parts));
  }

  /** Ends the connection without a word. */
  cut(): void {
    this.over = true;
    this.#isCut = true;
    this.#socket.resetAndDestroy();
  }

  /** Ends it in order. */
  hangUp(): void {
    this.over = true;
    this.#socket.end();
  }

  /** Ends the connection when so many more bytes have arrived, wherever in a frame that is. */
  cutAfter(bytes: number): void {
    this.#bytesLeft = bytes;
  }

  /** Doesn't read any more, so that the agent can't send. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** The id of a started volume. */
  idOf(name: string): bigint {
    const id = this.started.get(name);
    if (id === undefined) throw new Error(`${name} is not started`);
    return id;
  }

  start(name: string, volumeId: bigint, resumeSequence: number | null = null): void {
    this.started.set(name, volumeId);
    this.send(encode.encodeStartProtect(volumeId, name, resumeSequence));
  }

  /** Messages of one kind so far. */
  of<K extends RepMessageKind>(kind: K): MessageOf<K>[] {
    return this.messages.filter((message) => message.kind === kind) as MessageOf<K>[];
  }

  /** Waits until `count` messages of a kind have come, and gives them. */
  async expect<K extends RepMessageKind>(kind: K, count = 1, timeoutMs = 5000): Promise<MessageOf<K>[]> {
    await waitUntil(() => this.of(kind).length >= count || this.error, {
      what: `${count} ${kind}; there are ${this.of(kind).length}`,
      timeoutMs,
      intervalMs: 2,
    });
    if (this.error) throw this.error;
    return this.of(kind);
  }

  /** The entries of the stream so far, as text such as `write 0+512`, `dirty 0+65536`. */
  stream(): string[] {
    return this.messages.flatMap((message) => {
      switch (message.kind) {
        case 'protectedWrite':
          return [`${message.status === 0 ? 'write' : 'failed'} ${message.offset}+${message.length}`];
        case 'protectedZero':
          return [`${message.trim ? 'trim' : 'zero'} ${message.offset}+${message.length}`];
        case 'protectedFlush':
          return ['flush'];
        case 'dirty':
          return [
            ['dirty', ...message.extents.map(({ offset, length }) => `${offset}+${length}`)].join(' ') +
              (message.more ? ' ...' : ''),
          ];
        case 'hashResponse':
          return ['hash'];
        default:
          return [];
      }
    });
  }

  #arrived(chunk: Buffer): void {
    // What a paused stream had collected still comes after its socket was destroyed.
    if (this.#isCut) return;
    if (chunk.length >= this.#bytesLeft) {
      this.#consume(chunk.subarray(0, this.#bytesLeft));
      this.cut();
      return;
    }
    this.#bytesLeft -= chunk.length;
    this.#consume(chunk);
  }

  #consume(chunk: Buffer): void {
    if (this.error) return;
    try {
      const bytes = this.#held.length > 0 ? Buffer.concat([this.#held, chunk]) : chunk;
      const used = this.#parser.consume(bytes);
      this.#held = Buffer.from(bytes.subarray(used));
    } catch (error) {
      this.error = error instanceof Error ? error : new Error(String(error));
      this.cut();
    }
  }

  #take(message: RepMessage): void {
    this.messages.push(message);
    if (message.kind === 'reportVmVolumes') this.reports.push([...message.volumes]);
    if (this.#hub.onMessage(this, message)) return;
    const { mode, starts } = this.#hub;
    if (mode === 'silent') return;
    if (message.kind === 'reportVmVolumes') {
      if (mode === 'hello' && !this.#said) {
        this.#said = true;
        const { id, epoch, pingIntervalMs, features } = this.#hub;
        this.send(encode.encodeHello(id, epoch, pingIntervalMs, 'fake hub', features));
      } else if (starts) {
        this.startReported();
      }
    }
    if (message.kind === 'hello' && starts) this.startReported();
    if (message.kind === 'ping' && this.#hub.pongs) {
      this.send(encode.encodePing('pong', message.token, Date.now() * 1000));
    }
  }

  /** START_PROTECT for every reported volume that isn't started; its id is its place in the first report, from 101 on. */
  startReported(): void {
    for (const { name } of this.reports.at(-1) ?? []) {
      if (this.started.has(name)) continue;
      const resume = this.#hub.mode === 'hello' ? this.#hub.resumeSequence(name) : null;
      this.start(name, BigInt(101 + this.started.size), resume);
    }
  }
}

function copyOf(message: RepMessage): RepMessage {
  if ('data' in message) return { ...message, data: Buffer.from(message.data) };
  if (message.kind === 'hashResponse') return { ...message, digest: Buffer.from(message.digest) };
  return message;
}
