// A connection that carries units both ways: received bytes go to a consumer, parts are sent gathered and uncopied.
// It reports its end exactly once, and never throws into whoever sends.
import type { Socket } from 'node:net';
import { sharedPool } from '../base/buffer-pool.ts';
import { stopLocalPacing } from './local-peer.ts';
import { type ByteConsumer, ReceiveBuffer } from './receive-buffer.ts';

export interface SocketLinkEvents {
  /** The connection is gone, for the reason given; undefined when the peer ended it in order. Called once. */
  closed(reason: Error | undefined): void;
  /** Unsent bytes fell to zero after having been sent. */
  drained?(): void;
}

const KEEPALIVE_AFTER_MS = 10_000;

export class SocketLink {
  readonly #socket: Socket;
  readonly #events: SocketLinkEvents;
  readonly #received: ReceiveBuffer;
  #paused = false;
  #consuming = false;
  #goOn = false;
  #closed = false;
  #reason: Error | undefined;

  /** Takes over a connected socket. */
  constructor(socket: Socket, consumer: ByteConsumer, events: SocketLinkEvents) {
    this.#socket = socket;
    this.#events = events;
    this.#received = new ReceiveBuffer(sharedPool, consumer);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_AFTER_MS);
    stopLocalPacing(socket);
    socket.on('data', (chunk: Buffer) => this.#arrived(chunk));
    socket.on('drain', () => this.#events.drained?.());
    socket.on('error', (error) => {
      this.#reason ??= error;
    });
    socket.on('end', () => socket.end());
    socket.on('close', () => this.#ended());
  }

  /** `host:port` of the other side, for logs. */
  get peer(): string {
    return `${this.#socket.remoteAddress ?? 'unix'}:${this.#socket.remotePort ?? 0}`;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Bytes given to `send` that the kernel has not taken yet. */
  get unsentBytes(): number {
    return this.#socket.writableLength;
  }

  /**
   * Sends `parts` in order, in one gathered write where possible.
   * @param sent called when the kernel has taken the last part, or the connection is gone: the parts may be reused
   */
  send(parts: readonly Buffer[], sent?: () => void): void {
    if (this.#closed || this.#socket.destroyed || this.#socket.writableEnded) {
      if (sent) queueMicrotask(sent);
      return;
    }
    const last = parts.length - 1;
    this.#socket.cork();
    parts.forEach((part, i) => {
      this.#socket.write(part, i === last && sent ? () => sent() : undefined);
    });
    this.#socket.uncork();
  }

  /** Holds writes back until `uncork`, so that several sends leave together. */
  cork(): void {
    this.#socket.cork();
  }

  uncork(): void {
    this.#socket.uncork();
  }

  /** Stops giving bytes to the consumer, and reading. */
  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  /** Goes on where `pause` stopped. */
  resume(): void {
    if (!this.#paused || this.#closed) return;
    this.#paused = false;
    if (this.#consuming) {
      // Called from inside the consumer, which has stopped already: it is started again when it returns.
      this.#goOn = true;
      return;
    }
    this.#consume(() => this.#received.drain());
    if (!this.#paused) this.#socket.resume();
  }

  /** Ends after everything sent so far has left. */
  end(): void {
    this.#socket.end();
  }

  /** Ends at once. @param reason reported to `closed` */
  destroy(reason?: Error): void {
    this.#reason ??= reason;
    this.#socket.destroy();
  }

  #arrived(chunk: Buffer): void {
    if (this.#closed) return;
    if (this.#paused) this.#received.hold(chunk);
    else this.#consume(() => this.#received.push(chunk));
  }

  #consume(step: () => void): void {
    this.#consuming = true;
    try {
      step();
      while (this.#goOn && !this.#paused && !this.#closed) {
        this.#goOn = false;
        this.#socket.resume();
        this.#received.drain();
      }
      this.#goOn = false;
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.#consuming = false;
    }
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#received.clear();
    this.#events.closed(this.#reason);
  }
}
