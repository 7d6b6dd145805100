// A socket engine without a socket: the test is the wire. It fills the handler's memory as a kernel would, and takes
// what is sent when the test says so.
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { localClient } from '../../src/nbd/client-identity.ts';
import { Connection } from '../../src/nbd/connection.ts';
import { ExportList, type ExportSpec } from '../../src/nbd/exports.ts';
import type { SocketEngine, SocketHandler } from '../../src/transport/socket-engine.ts';

export class FakeEngine implements SocketEngine {
  readonly peer = 'fake';
  readonly unsentBytes = 0;
  readonly #handler: SocketHandler;
  readonly #untaken: Buffer[] = [];
  readonly #taken: Buffer[] = [];
  #region: Buffer;
  #paused = false;
  hasEnded = false;
  isClosed = false;
  /** How many sends there were. */
  sends = 0;

  constructor(handler: SocketHandler) {
    this.#handler = handler;
    this.#region = handler.receiveBuffer();
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  /** Whether there are bytes that nobody took. */
  get hasUntaken(): boolean {
    return this.#untaken.length > 0;
  }

  send(chunks: readonly Buffer[]): void {
    this.sends += 1;
    this.#untaken.push(...chunks);
  }

  cork(): void {}

  uncork(): void {}

  resume(): void {
    this.#paused = false;
  }

  release(): undefined {}

  giveAway(): undefined {}

  end(): void {
    this.hasEnded = true;
  }

  destroy(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    queueMicrotask(() => this.#handler.closed(undefined));
  }

  /** Bytes arrive, at most as many as the handler has room for at a time. @returns how many were not wanted (paused) */
  arrive(bytes: Buffer): number {
    let at = 0;
    while (at < bytes.length && !this.#paused && !this.isClosed) {
      const count = bytes.copy(this.#region, 0, at);
      if (count === 0) throw new Error('the handler gave no room');
      at += count;
      this.#paused = !this.#handler.received(count);
      this.#region = this.#handler.receiveBuffer();
    }
    return bytes.length - at;
  }

  /** The peer closes its side. */
  arriveEnd(): void {
    this.#handler.ended();
  }

  /** The kernel takes everything that was sent. */
  take(): void {
    for (let chunk = this.#untaken.shift(); chunk; chunk = this.#untaken.shift()) {
      this.#taken.push(Buffer.from(chunk));
      this.#handler.sent();
    }
  }

  /** All that was taken so far. */
  output(): Buffer {
    return Buffer.concat(this.#taken);
  }
}

/** A connection to a server of `device`, as export `disk`, or of the exports given; the test is the other end of it. */
export function openOnFakeEngine(
  device: BlockDevice | readonly ExportSpec[],
  handshakeTimeoutMs = 60_000,
): { readonly engine: FakeEngine; readonly connection: Connection } {
  let engine: FakeEngine | undefined;
  const connection = new Connection({
    exports: new ExportList('sizeBytes' in device ? [{ name: 'disk', device }] : device),
    client: localClient(),
    logger: silentLogger,
    handshakeTimeoutMs,
    openEngine: (handler) => {
      engine = new FakeEngine(handler);
      return engine;
    },
    onChange: () => {},
  });
  return { engine: engine!, connection };
}
