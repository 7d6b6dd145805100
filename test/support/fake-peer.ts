// The lowest double of an agent: a socket that sends what it is told and keeps what the hub says, as messages.
import { connect, type Socket } from 'node:net';
import { FrameParser } from '../../src/repwire/frame-parser.ts';
import type { RepMessage, RepMessageKind } from '../../src/repwire/messages.ts';
import { waitUntil } from './wait-until.ts';

export type MessageOf<K extends RepMessageKind> = RepMessage & { kind: K };

export class FakePeer {
  readonly received: RepMessage[] = [];
  readonly #socket: Socket;
  #rest = Buffer.alloc(0);
  #isClosed = false;
  /** Of what is sent from now on only so many bytes go out; then the connection is cut. */
  cutAfterBytes = Number.POSITIVE_INFINITY;
  /** Tears every frame in two, so that the hub has to put it together in a buffer of its own. */
  isTorn = false;
  #torn: Buffer[] = [];
  /** Bytes that were sent. */
  sentBytes = 0;
  onMessage: ((message: RepMessage) => void) | undefined;
  onClose: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const parser = new FrameParser((message) => {
      const kept = keep(message);
      this.received.push(kept);
      this.onMessage?.(kept);
      return true;
    });
    socket.on('data', (chunk) => {
      this.#rest = Buffer.concat([this.#rest, chunk]);
      this.#rest = this.#rest.subarray(parser.consume(this.#rest));
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#isClosed = true;
      this.onClose?.();
    });
  }

  static async connect(port: number): Promise<FakePeer> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new FakePeer(socket);
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  send(...frames: readonly Buffer[]): void {
    if (this.#isClosed || this.#socket.destroyed) return;
    for (const frame of frames) {
      const room = this.cutAfterBytes - this.sentBytes;
      this.sentBytes += frame.length;
      if (frame.length < room) {
        if (this.isTorn) this.#tear(frame);
        else this.#socket.write(frame);
        continue;
      }
      if (room > 0) this.#socket.write(frame.subarray(0, room), () => this.#socket.destroy());
      return;
    }
  }

  #tear(frame: Buffer): void {
    const half = Math.ceil(frame.length / 2);
    const isIdle = this.#torn.length === 0;
    this.#torn.push(Buffer.from(frame.subarray(0, half)), Buffer.from(frame.subarray(half)));
    if (isIdle) this.#sendTorn();
  }

  #sendTorn(): void {
    const piece = this.#torn[0];
    if (!piece || this.#socket.destroyed) return;
    this.#socket.write(piece);
    setImmediate(() => {
      this.#torn.shift();
      this.#sendTorn();
    });
  }

  /** Stops reading what the hub sends, or goes on. */
  pause(paused: boolean): void {
    if (paused) this.#socket.pause();
    else this.#socket.resume();
  }

  of<K extends RepMessageKind>(kind: K): Array<MessageOf<K>> {
    return this.received.filter((message): message is MessageOf<K> => message.kind === kind);
  }

  /** The `nth` message of a kind (from 0), when it has come. */
  async next<K extends RepMessageKind>(kind: K, nth = 0): Promise<MessageOf<K>> {
    return waitUntil(() => this.of(kind)[nth], { what: `${kind} number ${nth}` });
  }

  async closed(timeoutMs = 5000): Promise<void> {
    await waitUntil(() => this.#isClosed, { what: 'the hub to end the connection', timeoutMs });
  }

  /** Ends in order. */
  end(): void {
    this.#socket.end();
  }

  /** Ends at once. */
  destroy(): void {
    this.#socket.destroy();
  }
}

/** Payloads are lent to the parser's handler: whoever keeps a message copies them. */
function keep(message: RepMessage): RepMessage {
  if ('data' in message) return { ...message, data: Buffer.from(message.data) };
  if ('digest' in message) return { ...message, digest: Buffer.from(message.digest) };
  return message;
}
