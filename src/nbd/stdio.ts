// One client on standard input and output: a socket that is both, as libnbd and inetd give it, or two pipes.
import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { UsageError } from '../base/errors.ts';
import {
  createSocketEngine,
  createStreamEngine,
  type SocketEngine,
  type SocketHandler,
} from '../transport/socket-engine.ts';
import type { ClientIdentity } from './client-identity.ts';
import { KEEPALIVE_AFTER_MS } from './limits.ts';
import { peerCredentials, widenUnixSocket } from './socket-options.ts';

export interface StdioClient {
  readonly client: ClientIdentity;
  readonly openEngine: (handler: SocketHandler) => SocketEngine;
}

/**
 * Takes the two descriptors over.
 * @throws UsageError when they are neither sockets nor pipes
 */
export function openStdio(inputFd = 0, outputFd = 1): StdioClient {
  const [input, output] = [statOf(inputFd, 'input'), statOf(outputFd, 'output')];
  const isOne = input.isSocket() && input.ino === output.ino && input.dev === output.dev;
  if (!isOne) {
    const pair = new StreamPair(
      new Socket({ fd: inputFd, readable: true, writable: false }),
      new Socket({ fd: outputFd, readable: false, writable: true }),
    );
    const client = { address: undefined, credentials: undefined, tls: undefined };
    return { client, openEngine: (handler) => createStreamEngine(pair as unknown as Socket, handler) };
  }
  // Not read before the engine has its own memory for that; missing in the types.
  const options = { fd: inputFd, readable: true, writable: true, allowHalfOpen: true, manualStart: true };
  const socket = new Socket(options);
  // A unix socket has no address; a TCP socket whose peer is gone must not be taken for one.
  const isTcp = socket.localAddress !== undefined;
  const address = isTcp ? (socket.remoteAddress ?? 'gone') : undefined;
  if (!isTcp) widenUnixSocket(inputFd);
  return {
    client: { address, credentials: isTcp ? undefined : peerCredentials(inputFd), tls: undefined },
    openEngine: (handler) => createSocketEngine(socket, handler, KEEPALIVE_AFTER_MS),
  };
}

function statOf(fd: number, name: string): ReturnType<typeof fstatSync> {
  let kind = 'closed';
  try {
    const found = fstatSync(fd);
    if (found.isSocket() || found.isFIFO()) return found;
    kind = found.isCharacterDevice() ? 'a terminal or device' : 'a file';
  } catch {
    // It says what it is not.
  }
  throw new UsageError(
    `--stdio: standard ${name} is ${kind}; it is for programs that start us with sockets or pipes, as nbdkit -s`,
  );
}

/** Two one-way streams as the engine knows sockets. A chunk counts as sent when the system has taken it, not before. */
class StreamPair extends Duplex {
  readonly #input: Socket;
  readonly #output: Socket;

  constructor(input: Socket, output: Socket) {
    super({ allowHalfOpen: true });
    this.#input = input;
    this.#output = output;
    input.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) input.pause();
    });
    input.on('end', () => this.push(null));
    for (const one of [input, output]) one.on('error', (error) => this.destroy(error));
    input.pause();
  }

  override _read(): void {
    this.#input.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#output.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#output.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#input.destroy();
    this.#output.destroy();
    done(error);
  }
}
