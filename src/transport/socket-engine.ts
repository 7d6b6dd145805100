// The only file that touches sockets' bytes: it receives straight into the handler's memory and sends gathered writes.
// Behind SocketEngine another implementation can take its place. It knows nothing of protocols.
import { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { assert } from '../base/assert.ts';

/** What a connection does with its socket's events. */
export interface SocketHandler {
  /** Memory for the next bytes; never empty. It must stay valid until the next call of this, or `closed`. */
  receiveBuffer(): Buffer;
  /** That many bytes lie at the start of the memory given last. Returns false to stop receiving until `resume`. */
  received(bytes: number): boolean;
  /** The peer will send nothing more. */
  ended(): void;
  /** The kernel has taken the oldest chunk that was sent and not yet reported. */
  sent(): void;
  /** The last event: nobody reads or writes the handler's memory any more. */
  closed(error: Error | undefined): void;
}

export interface SocketEngine {
  /** `host:port` of the peer, or `unix`. */
  readonly peer: string;
  /** Bytes that were sent and that the kernel has not taken. */
  readonly unsentBytes: number;
  /** Sends the chunks in order, in one write where possible; each is answered by one `sent`, unless the socket dies. */
  send(chunks: readonly Buffer[]): void;
  /** Holds back what is sent until `uncork`, so that it leaves together. */
  cork(): void;
  uncork(): void;
  /** Goes on receiving after `received` returned false. */
  resume(): void;
  /**
   * Gives the socket away: no event comes from here any more. The caller has stopped receiving, and nothing is unsent.
   * @returns undefined when bytes were received that the handler has not had; it is up to the caller to end that
   */
  release(): Socket | undefined;
  /**
   * Gives the socket away for others to go on with, in this process or another; no event comes from here any more. The
   * caller has stopped receiving, has taken what it was given, and nothing is unsent.
   * @returns undefined when the socket is closed already
   */
  giveAway(): GivenSocket | undefined;
  /** Closes our side after everything sent so far. */
  end(): void;
  /** Closes at once. `closed` follows. */
  destroy(): void;
}

/** The handle of a socket that nobody has read from; the socket is of no use any more. */
export function handleOf(socket: Socket): SocketHandle {
  const handle = takeHandle(socket);
  assert(handle !== undefined, 'a socket without a handle of its own');
  return handle as SocketHandle;
}

/** The system's side of a socket, as Node's own modules hand it to one another; it can be sent to a child process. */
export interface SocketHandle {
  /** Whether it is received from. */
  reading?: boolean;
  readStop(): number;
  close(): void;
}

/** A socket that an engine gave away: its handle, or where it has none of its own, as with TLS, the stream. */
export type GivenSocket =
  | { readonly kind: 'handle'; readonly handle: SocketHandle }
  | { readonly kind: 'stream'; readonly stream: Socket };

/**
 * Takes over a connected socket. One of a server with `pauseOnConnect`, or one that connected in this turn, is received
 * from without a copy; one that has begun to read, as a stream. Events come after this returned.
 * @param keepAliveAfterMs silence after which a TCP peer is probed
 */
export function createSocketEngine(
  socket: Socket,
  handler: SocketHandler,
  keepAliveAfterMs: number,
): SocketEngine {
  // Here and never again: the engine that takes the socket over for TLS would undo what was set more exactly since.
  socket.setNoDelay(true);
  socket.setKeepAlive(true, keepAliveAfterMs);
  const handle = takeHandle(socket);
  return handle === undefined ? createStreamEngine(socket, handler) : new OnreadEngine(handle, handler);
}

/** Goes on with a socket that another engine gave away. @param peer what it was called there */
export function createHandleEngine(handle: SocketHandle, handler: SocketHandler, peer: string): SocketEngine {
  return new OnreadEngine(handle, handler, peer);
}

/** The same for a socket whose handle can't be taken, such as one that speaks TLS. */
export function createStreamEngine(socket: Socket, handler: SocketHandler, peer?: string): SocketEngine {
  return new StreamEngine(socket, handler, peer);
}

/** The socket's system handle, taken out of it; undefined where Node hides it, or the socket has read already. */
function takeHandle(socket: Socket): object | undefined {
  const shell = socket as unknown as { _handle?: { readonly reading?: boolean } | null };
  const handle = shell._handle;
  if (typeof handle !== 'object' || handle === null || !('useUserBuffer' in handle)) return undefined;
  if (socket instanceof TLSSocket || handle.reading === true || socket.bytesRead > 0) return undefined;
  // The shell gives its place in the server's count of connections back, and can't close what is no longer its own.
  shell._handle = null;
  socket.destroy();
  return handle;
}

/** A peer that is gone already has no address, but its socket still has one on our side. */
function peerName(socket: Socket): string {
  if (socket.localAddress === undefined && socket.remoteAddress === undefined) return 'unix';
  return `${socket.remoteAddress ?? 'gone'}:${socket.remotePort ?? 0}`;
}

abstract class BaseEngine implements SocketEngine {
  readonly peer: string;
  protected readonly socket: Socket;
  protected readonly handler: SocketHandler;
  #error: Error | undefined;
  readonly #onSent: (error?: Error | null) => void;
  readonly #onEnd = (): void => this.handler.ended();
  readonly #onClose = (): void => this.handler.closed(this.#error);

  /** @param peer what it is called, where the socket itself doesn't know */
  constructor(socket: Socket, handler: SocketHandler, peer?: string) {
    this.socket = socket;
    this.handler = handler;
    this.peer = peer ?? peerName(socket);
    this.#onSent = (error) => {
      if (!error) this.handler.sent();
    };
    socket.on('end', this.#onEnd);
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('close', this.#onClose);
  }

  get unsentBytes(): number {
    return this.socket.writableLength;
  }

  cork(): void {
    this.socket.cork();
  }

  uncork(): void {
    this.socket.uncork();
  }

  send(chunks: readonly Buffer[]): void {
    const { socket } = this;
    if (chunks.length === 1) {
      socket.write(chunks[0]!, this.#onSent);
      return;
    }
    socket.cork();
    for (const chunk of chunks) socket.write(chunk, this.#onSent);
    socket.uncork();
  }

  abstract resume(): void;

  release(): Socket | undefined {
    const { socket } = this;
    if (socket.readableLength > 0) return undefined;
    // Errors stay listened to: an unheard one would end the process.
    socket.off('end', this.#onEnd).off('close', this.#onClose);
    return socket;
  }

  giveAway(): GivenSocket | undefined {
    const { socket } = this;
    // Errors stay listened to: an unheard one would end the process.
    socket.off('end', this.#onEnd).off('close', this.#onClose);
    return socket.destroyed ? undefined : this.given();
  }

  protected abstract given(): GivenSocket | undefined;

  end(): void {
    this.socket.end();
  }

  destroy(): void {
    this.socket.destroy();
  }
}

/** Node reads straight into the handler's memory: one copy less than 'data' events, and no allocation. */
class OnreadEngine extends BaseEngine {
  constructor(handle: object, handler: SocketHandler, peer?: string) {
    const options = {
      handle,
      allowHalfOpen: true,
      onread: {
        // Node calls this once now and then after every callback, and keeps the buffer until the next read.
        buffer: () => handler.receiveBuffer(),
        callback: (bytes: number) => handler.received(bytes),
      },
    };
    // `handle` and a function as buffer are missing in the types.
    super(new Socket(options as unknown as ConstructorParameters<typeof Socket>[0]), handler, peer);
  }

  resume(): void {
    this.socket.resume();
  }

  protected override given(): GivenSocket | undefined {
    const shell = this.socket as unknown as { _handle: SocketHandle | null };
    const handle = shell._handle;
    if (handle === null) return undefined;
    handle.readStop();
    handle.reading = false;
    shell._handle = null;
    this.socket.destroy();
    return { kind: 'handle', handle };
  }
}

/** The plain way, for streams without a handle of their own: chunks are copied to where they shall land. */
class StreamEngine extends BaseEngine {
  #left: Buffer | undefined;
  #paused = false;
  readonly #onData = (chunk: Buffer): void => this.#deliver(chunk);

  constructor(socket: Socket, handler: SocketHandler, peer?: string) {
    super(socket, handler, peer);
    // The peer may have closed its side while the handler still works on what came before.
    socket.allowHalfOpen = true;
    socket.on('data', this.#onData);
    // It was paused on purpose, so that listening alone doesn't start it.
    socket.resume();
  }

  resume(): void {
    this.#paused = false;
    const left = this.#left;
    this.#left = undefined;
    if (left) this.#deliver(left);
    if (!this.#paused) this.socket.resume();
  }

  override release(): Socket | undefined {
    if (this.#left) return undefined;
    this.socket.off('data', this.#onData);
    return super.release();
  }

  protected override given(): GivenSocket {
    this.socket.off('data', this.#onData);
    this.socket.pause();
    if (this.#left) this.socket.unshift(this.#left);
    this.#left = undefined;
    return { kind: 'stream', stream: this.socket };
  }

  #deliver(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.#paused) {
      const region = this.handler.receiveBuffer();
      const bytes = chunk.copy(region, 0, at);
      assert(bytes > 0, 'an empty receive buffer');
      at += bytes;
      if (!this.handler.received(bytes)) {
        this.#paused = true;
        this.socket.pause();
      }
    }
    if (at < chunk.length) this.#left = chunk.subarray(at);
  }
}
