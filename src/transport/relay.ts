// Carries a stream that has no system handle of its own, such as one that speaks TLS, to where only handles can go: over a
// pair of sockets, byte by byte, with each side's end passed on. It never holds more than the streams' own buffers.
import { Socket } from 'node:net';
import type { NativeCalls } from '../base/native-calls.ts';
import { handleOf, type SocketHandle } from './socket-engine.ts';

/** How long a peer may take to read the rest and close, once the other end of the pair is gone, ms. */
const LINGER_MS = 5000;

/**
 * Relays from now on, until both sides have ended or one is gone.
 * @param stream what came on it so far has been read or is in its own buffer; its errors are listened to
 * @returns the far end, which belongs to the caller @throws Error with `code` when the system has no more sockets
 */
export function relay(stream: Socket, native: NativeCalls): SocketHandle {
  const [near, far] = native.socketPair();
  const pair = new Socket({ fd: near, readable: true, writable: true, allowHalfOpen: true });
  // Missing in the types: nothing is read of it here.
  const options = { fd: far, readable: true, writable: true, manualStart: true };
  const handle = handleOf(new Socket(options));
  pair.on('error', () => pair.destroy());
  pair.once('close', () => {
    stream.end();
    const timer = setTimeout(() => stream.destroy(), LINGER_MS);
    timer.unref();
    stream.once('close', () => clearTimeout(timer));
  });
  stream.once('close', () => pair.destroy());
  stream.pipe(pair);
  pair.pipe(stream);
  return handle;
}
