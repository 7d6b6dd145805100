// A network in memory between an agent and a hub, with sockets that are Node's own streams above it. Bytes may be late,
// arrive in any pieces, stop, or be lost with their connection at any byte; none may be lost, doubled or overtaken
// while a connection lives, as TCP has it.
import type { Server, Socket } from 'node:net';
import type { Dial } from '../../src/repagent/hub-link.ts';
import type { Clock, Host } from './clock.ts';
import { ignore, SimServer } from './sim-server.ts';
import { coded, type Done, SimSocket } from './sim-socket.ts';

/** How the network is at present. */
export interface Weather {
  latencyMs: number;
  jitterMs: number;
  bytesPerMs: number;
  /** Bytes of one connection, in one direction, that the kernels on both sides hold together. */
  windowBytes: number;
  /** Nothing passes, in either direction, and nobody is told. */
  isPartitioned: boolean;
  /** Nobody can connect. */
  isRefused: boolean;
}

export const FAIR: Weather = {
  latencyMs: 0.2,
  jitterMs: 0.1,
  bytesPerMs: 100_000,
  windowBytes: 256 * 1024,
  isPartitioned: false,
  isRefused: false,
};

/** Where hubs listen. */
export const HUB_PORT = 9010;

const FRAME_MAGIC = 0x1122;
const FRAME_BYTES = 56;
const HELLO = 64;

interface Piece {
  readonly bytes: Buffer;
  isDue: boolean;
}

/** One direction of a connection. */
export class Pipe {
  readonly #net: Network;
  readonly #reader: SimSocket;
  readonly #writer: SimSocket;
  readonly #connection: Connection;
  #waiting: Buffer[] = [];
  #done: Done | undefined;
  readonly #travelling: Piece[] = [];
  #heldBytes = 0;
  #lastAtMs = 0;
  #wants = false;
  #ending = false;
  #ended = false;
  #isDead = false;
  /** Bytes that still arrive before the connection is cut. */
  cutAfterBytes = Number.POSITIVE_INFINITY;
  /** Nothing arrives, and nobody is told. */
  isFrozen = false;
  /** The reader is never told that the writer is gone. */
  isMute = false;

  constructor(net: Network, connection: Connection, writer: SimSocket, reader: SimSocket) {
    this.#net = net;
    this.#connection = connection;
    this.#writer = writer;
    this.#reader = reader;
  }

  /** Looks for a HELLO, which says what life of its process the writer is in. */
  look(chunk: Buffer): void {
    if (chunk.length < FRAME_BYTES || chunk.readUInt16LE(0) !== FRAME_MAGIC) return;
    if (chunk.readUInt16LE(2) === HELLO && this.#writer.host) {
      this.#net.greeted(this.#writer.host, chunk.readBigUInt64LE(32));
    }
  }

  send(chunks: Buffer[], done: Done): void {
    this.#waiting = chunks;
    this.#done = done;
    this.#accept();
  }

  /** The writer has nothing more to say. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#later(this.#reader.host, () => this.deliver());
  }

  /** The writer is gone: what the kernel didn't take is lost. */
  abandon(): void {
    this.#waiting = [];
    const done = this.#done;
    this.#done = undefined;
    if (done) this.#net.later(0, this.#writer.host, () => done(coded('ECANCELED')));
  }

  closedByReader(): void {
    if (this.#isDead) return;
    this.#isDead = true;
    // What arrives for a socket that is gone is answered with a reset.
    if (this.#travelling.length > 0) this.#connection.resetEnd(this.#writer);
  }

  wanted(): void {
    this.#wants = true;
    this.deliver();
  }

  /** Something arrived, or may pass again. */
  goOn(): void {
    const { host } = this.#reader;
    if (host?.isAlive === false && !this.#isStopped()) {
      this.#travelling.length = 0;
      this.#connection.resetEnd(this.#writer);
      return;
    }
    this.#net.clock.after(0, host, () => this.deliver());
  }

  /** Gives the reader what has arrived. */
  deliver(): void {
    while (!this.#isStopped()) {
      const piece = this.#travelling[0];
      if (!piece) {
        if (!this.#ending || this.#ended || this.isMute || this.#waiting.length > 0) return;
        this.#ended = true;
        if (!this.#reader.destroyed) this.#reader.push(null);
        return;
      }
      if (!piece.isDue) return;
      if (this.#isDead || this.#reader.destroyed) {
        this.#travelling.length = 0;
        this.#connection.resetEnd(this.#writer);
        return;
      }
      if (!this.#wants) return;
      this.#travelling.shift();
      const { bytes } = piece;
      this.#heldBytes -= bytes.length;
      const passing = Math.min(bytes.length, this.cutAfterBytes);
      this.cutAfterBytes -= bytes.length;
      this.#net.told(this.#reader.host, passing);
      if (passing > 0) this.#wants = this.#reader.push(bytes.subarray(0, passing));
      if (this.cutAfterBytes <= 0) {
        this.#connection.reset();
        return;
      }
      if (this.#waiting.length > 0) this.#later(this.#writer.host, () => this.#accept());
    }
  }

  #isStopped(): boolean {
    return this.isFrozen || this.#net.weather.isPartitioned;
  }

  /** The kernel takes what it has room for, gathered. Only from here on the bytes are its own. */
  #accept(): void {
    const { windowBytes } = this.#net.weather;
    while (this.#waiting.length > 0 && this.#heldBytes < windowBytes) {
      const taken = this.#take(Math.min(windowBytes - this.#heldBytes, this.#net.pieceBytes()));
      this.#heldBytes += taken.length;
      this.#travel(taken);
    }
    if (this.#waiting.length > 0) return;
    const done = this.#done;
    this.#done = undefined;
    done?.();
  }

  /** A copy of at most so many of the bytes that wait. */
  #take(mostBytes: number): Buffer {
    const parts: Buffer[] = [];
    let bytes = 0;
    for (let chunk = this.#waiting[0]; chunk && bytes < mostBytes; chunk = this.#waiting[0]) {
      const part = chunk.subarray(0, mostBytes - bytes);
      parts.push(part);
      bytes += part.length;
      if (part.length === chunk.length) this.#waiting.shift();
      else this.#waiting[0] = chunk.subarray(part.length);
    }
    return Buffer.concat(parts, bytes);
  }

  #travel(bytes: Buffer): void {
    const { nowMs } = this.#net.clock;
    const atMs =
      Math.max(this.#lastAtMs, nowMs + this.#net.latencyMs()) + bytes.length / this.#net.weather.bytesPerMs;
    this.#lastAtMs = atMs;
    const piece: Piece = { bytes, isDue: false };
    this.#travelling.push(piece);
    this.#net.clock.after(atMs - nowMs, null, () => {
      piece.isDue = true;
      this.goOn();
    });
  }

  #later(host: Host | null, run: () => void): void {
    const { nowMs } = this.#net.clock;
    const atMs = Math.max(this.#lastAtMs, nowMs + this.#net.latencyMs());
    this.#lastAtMs = atMs;
    this.#net.clock.after(atMs - nowMs, host, run);
  }
}

export class Connection {
  readonly #net: Network;
  readonly agentEnd: SimSocket;
  readonly hubEnd: SimSocket;
  readonly up: Pipe;
  readonly down: Pipe;

  constructor(net: Network, agentEnd: SimSocket, hubEnd: SimSocket) {
    this.#net = net;
    this.agentEnd = agentEnd;
    this.hubEnd = hubEnd;
    this.up = new Pipe(net, this, agentEnd, hubEnd);
    this.down = new Pipe(net, this, hubEnd, agentEnd);
    agentEnd.out = this.up;
    hubEnd.into = this.up;
    hubEnd.out = this.down;
    agentEnd.into = this.down;
  }

  get isOver(): boolean {
    return this.agentEnd.destroyed && this.hubEnd.destroyed;
  }

  /** Both ends learn at once that it's gone. */
  reset(): void {
    this.resetEnd(this.agentEnd);
    this.resetEnd(this.hubEnd);
  }

  /** One end learns of it; what is on its way to the other still arrives, and then nothing more. */
  resetEnd(end: SimSocket): void {
    this.#net.clock.after(0, end.host, () => end.destroy(coded('ECONNRESET')));
  }

  /** The agent's end learns that it's gone, and may dial again; what it sent still arrives at a hub that is not told. */
  halfOpen(): void {
    this.up.isMute = true;
    this.down.isFrozen = true;
    this.resetEnd(this.agentEnd);
  }

  /** One process is gone, and its kernel says so: in order, or by a reset. */
  hostDied(host: Host, isReset: boolean): void {
    for (const [mine, other] of [
      [this.agentEnd, this.hubEnd],
      [this.hubEnd, this.agentEnd],
    ] as const) {
      if (mine.host !== host || mine.destroyed) continue;
      mine.out?.abandon();
      if (isReset)
        this.#net.later(this.#net.latencyMs(), other.host, () => other.destroy(coded('ECONNRESET')));
      else mine.out?.end();
      mine.into?.closedByReader();
    }
  }

  /** One machine is gone: it answers nothing, and the other end waits. */
  vanished(): void {
    this.up.isFrozen = true;
    this.down.isFrozen = true;
  }
}

export class Network {
  readonly clock: Clock;
  readonly weather: Weather = { ...FAIR };
  /** Every connection that isn't over. */
  connections: Connection[] = [];
  /** Told of all bytes that arrive. */
  told: (host: Host | null, bytes: number) => void = () => {};
  /** Told of each HELLO, and of the epoch in it. */
  greeted: (host: Host, epoch: bigint) => void = () => {};
  readonly #random: () => number;
  readonly #servers = new Map<number, SimServer>();

  constructor(clock: Clock, random: () => number) {
    this.clock = clock;
    this.#random = random;
  }

  get liveConnections(): Connection[] {
    this.connections = this.connections.filter((one) => !one.isOver);
    return this.connections;
  }

  latencyMs(): number {
    const { latencyMs, jitterMs } = this.weather;
    return latencyMs + this.#random() * jitterMs;
  }

  /** How much is taken at once: whole sends mostly, a few bytes now and then. */
  pieceBytes(): number {
    const kind = this.#random();
    if (kind < 0.03) return 1 + Math.floor(this.#random() * 90);
    if (kind < 0.15) return 1 + Math.floor(this.#random() * 9000);
    return 65_536;
  }

  later(delayMs: number, host: Host | null, run: () => void): void {
    this.clock.after(delayMs, host, run);
  }

  /** For an agent's process. */
  dialFrom(host: Host): Dial {
    return ({ port }) => {
      const socket = new SimSocket(host, port);
      socket.connecting = true;
      this.#connect(socket, port);
      return socket as unknown as Socket;
    };
  }

  /** For a hub's process. */
  serverOf(host: Host): (accept: (socket: Socket) => void) => Server {
    return (accept) => new SimServer(this, host, accept) as unknown as Server;
  }

  listen(server: SimServer, port: number): void {
    this.#servers.set(port, server);
  }

  /** The process's sockets are gone: its kernel tells the others, or not. */
  hostDied(host: Host, how: 'closed' | 'reset' | 'silent'): void {
    for (const connection of this.liveConnections) {
      if (connection.agentEnd.host !== host && connection.hubEnd.host !== host) continue;
      if (how === 'silent') connection.vanished();
      else connection.hostDied(host, how === 'reset');
    }
  }

  /** What a partition held back goes on. */
  heal(): void {
    this.weather.isPartitioned = false;
    this.weather.isRefused = false;
    for (const { up, down } of this.liveConnections) {
      up.goOn();
      down.goOn();
    }
  }

  #connect(socket: SimSocket, port: number): void {
    this.later(this.latencyMs() * 2, socket.host, () => {
      // It waits for an answer until its owner loses patience.
      if (socket.destroyed || this.weather.isPartitioned) return;
      const server = this.#servers.get(port);
      if (!server?.isListening || this.weather.isRefused) {
        socket.destroy(coded('ECONNREFUSED'));
        return;
      }
      const hubEnd = new SimSocket(server.host, 40_000);
      hubEnd.on('error', ignore);
      this.connections.push(new Connection(this, socket, hubEnd));
      socket.connecting = false;
      this.later(this.latencyMs(), server.host, () => server.accepted(hubEnd));
      socket.emit('connect');
      socket.read(0);
    });
  }
}
