// A connection that carries units both ways: received bytes are read where they land, parts are sent gathered and
// uncopied. It reports its end exactly once, and never throws into whoever sends.
import type { Socket } from 'node:net';
import { sharedPool } from '../base/buffer-pool.ts';
import { stopLocalPacing } from './local-peer.ts';
import { ReceiveBuffer } from './receive-buffer.ts';
import { createSocketEngine, type SocketEngine, type SocketHandler } from './socket-engine.ts';

/** What reads units (requests, frames) off the front of received bytes. */
export interface ByteConsumer {
  /** Contiguous bytes the unit at the front needs, as far as is known. Bounded by the consumer's own limits. */
  readonly wantBytes: number;
  /**
   * Handles complete units at the start of `bytes` and returns how many bytes it used up; those it keeps beyond the
   * call it retains. Throws to end the connection.
   */
  consume(bytes: Buffer): number;
}

export interface SocketLinkEvents {
  /** The connection is gone, for the reason given; undefined when the peer ended it in order. Called once. */
  closed(reason: Error | undefined): void;
  /** Unsent bytes fell to zero after having been sent. */
  drained?(): void;
}

const KEEPALIVE_AFTER_MS = 10_000;

/** Parts that were sent together, of which the kernel has not taken all. */
interface Sending {
  parts: number;
  readonly sent: (() => void) | undefined;
}

export class SocketLink implements SocketHandler {
  readonly #consumer: ByteConsumer;
  readonly #events: SocketLinkEvents;
  readonly #received = new ReceiveBuffer(sharedPool);
  readonly #engine: SocketEngine;
  /** Oldest first. */
  readonly #sendings: Sending[] = [];
  #paused = false;
  #consuming = false;
  #goOn = false;
  /** The peer has closed its side, and the consumer has not had everything that came before. */
  #endDue = false;
  /** Nothing is taken in any more. */
  #destroyed = false;
  /** Nothing more may be sent. */
  #ending = false;
  #closed = false;
  #reason: Error | undefined;

  /** Takes over a connected socket: without a copy, where it has read nothing yet. */
  constructor(socket: Socket, consumer: ByteConsumer, events: SocketLinkEvents) {
    this.#consumer = consumer;
    this.#events = events;
    stopLocalPacing(socket);
    this.#received.want(consumer.wantBytes, false);
    this.#engine = createSocketEngine(socket, this, KEEPALIVE_AFTER_MS);
  }

  /** `host:port` of the other side, for logs. */
  get peer(): string {
    return this.#engine.peer;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Bytes given to `send` that the kernel has not taken yet. */
  get unsentBytes(): number {
    return this.#engine.unsentBytes;
  }

  /**
   * Sends `parts` in order, in one gathered write where possible.
   * @param parts at least one
   * @param sent called when the kernel has taken the last part, or the connection is gone: the parts may be reused
   */
  send(parts: readonly Buffer[], sent?: () => void): void {
    if (this.#ending || this.#closed) {
      if (sent) queueMicrotask(sent);
      return;
    }
    this.#sendings.push({ parts: parts.length, sent });
    this.#engine.send(parts);
  }

  /** Holds writes back until `uncork`, so that several sends leave together. */
  cork(): void {
    this.#engine.cork();
  }

  uncork(): void {
    this.#engine.uncork();
  }

  /** Stops giving bytes to the consumer, and reading. */
  pause(): void {
    this.#paused = true;
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
    if (this.#received.available > 0) this.#pass();
    if (this.#paused) return;
    if (this.#endDue) this.end();
    else this.#engine.resume();
  }

  /** Ends after everything sent so far has left. */
  end(): void {
    this.#ending = true;
    this.#engine.end();
  }

  /** Ends at once. @param reason reported to `closed` */
  destroy(reason?: Error): void {
    this.#reason ??= reason;
    this.#ending = true;
    this.#destroyed = true;
    this.#engine.destroy();
  }

  receiveBuffer(): Buffer {
    return this.#received.region();
  }

  received(bytes: number): boolean {
    this.#received.filled(bytes);
    if (!this.#paused) this.#pass();
    return !this.#paused;
  }

  ended(): void {
    if (this.#paused) this.#endDue = true;
    else this.end();
  }

  sent(): void {
    const oldest = this.#sendings[0];
    if (!oldest) return;
    oldest.parts -= 1;
    if (oldest.parts > 0) return;
    this.#sendings.shift();
    oldest.sent?.();
    if (this.#sendings.length === 0) this.#events.drained?.();
  }

  closed(error: Error | undefined): void {
    this.#closed = true;
    this.#received.close();
    for (const { sent } of this.#sendings.splice(0)) sent?.();
    this.#events.closed(this.#reason ?? error);
  }

  /** One pass over what has arrived. */
  #pass(): void {
    const received = this.#received;
    this.#consuming = true;
    try {
      do {
        this.#goOn = false;
        const used = this.#consumer.consume(received.bytes.subarray(received.start, received.end));
        received.consume(used);
        received.want(this.#consumer.wantBytes, false);
      } while (this.#goOn && !this.#paused && received.available > 0);
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.#consuming = false;
    }
    if (this.#destroyed) received.discard();
  }
}
