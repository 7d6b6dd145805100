// One end of a simulated connection: Node's own stream, as a TCP socket is one, over a pipe that a test can break.
import { Duplex } from 'node:stream';
import type { Host } from './clock.ts';
import type { Pipe } from './network.ts';

export type Done = (error?: Error | null) => void;

/** The errors that the system would give. */
export function coded(code: string): Error {
  return Object.assign(new Error(`simulated ${code}`), { code });
}

export class SimSocket extends Duplex {
  readonly remoteAddress = '10.0.0.1';
  readonly remotePort: number;
  readonly host: Host | null;
  /** What this end sends; undefined while it isn't connected. */
  out: Pipe | undefined;
  into: Pipe | undefined;
  connecting = false;

  constructor(host: Host | null, port: number) {
    super({ allowHalfOpen: false, highWaterMark: 64 * 1024, emitClose: true });
    this.host = host;
    this.remotePort = port;
  }

  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }

  override _read(): void {
    this.into?.wanted();
  }

  override _write(chunk: Buffer, _encoding: string, done: Done): void {
    this.#send([chunk], done);
  }

  override _writev(chunks: Array<{ chunk: Buffer }>, done: Done): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  override _final(done: Done): void {
    this.out?.end();
    done();
  }

  override _destroy(error: Error | null, done: Done): void {
    this.out?.end();
    this.out?.abandon();
    this.into?.closedByReader();
    done(error);
  }

  #send(chunks: Buffer[], done: Done): void {
    for (const chunk of chunks) this.out?.look(chunk);
    if (this.out) this.out.send(chunks, done);
    else done(coded('EPIPE'));
  }
}
