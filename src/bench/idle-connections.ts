// Opens connections to an NBD server that do nothing, to see what each costs in memory. They are closed again.
import { createConnection, type Socket } from 'node:net';
import { OperationError } from '../base/errors.ts';
import { within } from '../base/lifecycle.ts';
import { ClientHandshake } from '../nbdwire/client-handshake.ts';

const HANDSHAKE_TIMEOUT_MS = 10_000;

/** Opens `count` connections, calls `look`, and closes them. @throws OperationError when the server refuses one */
export async function withIdleConnections<T>(
  port: number,
  exportName: string,
  count: number,
  look: () => Promise<T>,
): Promise<T> {
  const sockets: Socket[] = [];
  try {
    for (let i = 0; i < count; i += 1) sockets.push(await open(port, exportName));
    return await look();
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}

async function open(port: number, exportName: string): Promise<Socket> {
  const socket = createConnection({ port, host: '127.0.0.1' });
  const handshake = new ClientHandshake({ exportName, tls: false }, (bytes) => socket.write(bytes));
  const done = new Promise<true>((resolve, reject) => {
    socket.on('error', reject);
    socket.on('close', () => reject(new OperationError('the server closed an idle connection')));
    socket.on('data', (chunk) => {
      try {
        if (handshake.state !== 'done') handshake.push(chunk);
        if (handshake.state === 'done') resolve(true);
      } catch (error) {
        reject(error);
      }
    });
  });
  done.catch(() => {});
  if (!(await within(done, HANDSHAKE_TIMEOUT_MS))) {
    socket.destroy();
    throw new OperationError('the server does not finish the handshake');
  }
  return socket;
}
