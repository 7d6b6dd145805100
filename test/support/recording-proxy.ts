// A proxy that keeps what passes, in the order in which it passed. It changes nothing and holds nothing up. What it
// recorded lives as long as the test: recordings are made by each run, never kept.
import {
  type AddressInfo,
  connect,
  createServer,
  type NetConnectOpts,
  type Server,
  type Socket,
} from 'node:net';
import { waitUntil } from './wait-until.ts';

export type Speaker = 'client' | 'server';

export interface RecordedPiece {
  readonly from: Speaker;
  readonly bytes: Buffer;
}

/** One connection that passed the proxy. */
export class RecordedSession {
  readonly pieces: RecordedPiece[] = [];
  /** Both sides are gone. */
  over = false;

  /** All that one side said. */
  said(from: Speaker): Buffer {
    return Buffer.concat(this.pieces.filter((piece) => piece.from === from).map((piece) => piece.bytes));
  }
}

export class RecordingProxy {
  /** In the order in which they were accepted. */
  readonly sessions: RecordedSession[] = [];
  readonly #server: Server;
  readonly #target: NetConnectOpts;
  readonly #sockets = new Set<Socket>();

  private constructor(target: NetConnectOpts) {
    this.#target = target;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  /** Listens on a free port of loopback, for `target`. */
  static async listen(target: NetConnectOpts): Promise<RecordingProxy> {
    const proxy = new RecordingProxy(target);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Waits until every connection so far is over. @returns them, and forgets them */
  async take(): Promise<RecordedSession[]> {
    await waitUntil(() => this.sessions.every((session) => session.over), { what: 'the recorded to end' });
    return this.sessions.splice(0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #accept(client: Socket): void {
    const session = new RecordedSession();
    this.sessions.push(session);
    const server = connect({ ...this.#target, allowHalfOpen: true });
    let open = 2;
    const gone = (): void => {
      open -= 1;
      session.over = open === 0;
    };
    this.#join(session, 'client', client, server, gone);
    this.#join(session, 'server', server, client, gone);
  }

  #join(session: RecordedSession, from: Speaker, source: Socket, sink: Socket, gone: () => void): void {
    this.#sockets.add(source);
    source.setNoDelay(true);
    source.on('data', (bytes: Buffer) => {
      session.pieces.push({ from, bytes });
      if (!sink.write(bytes)) source.pause();
    });
    sink.on('drain', () => source.resume());
    source.on('error', () => {});
    source.on('end', () => sink.end());
    source.on('close', () => {
      this.#sockets.delete(source);
      sink.destroySoon();
      gone();
    });
  }
}
