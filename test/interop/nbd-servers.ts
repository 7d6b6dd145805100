// Third-party NBD servers for the client's tests: nbdkit and qemu-nbd, on unix sockets and on TCP, that can be killed
// and started again in the same place.

import { rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { connect, createServer } from 'node:net';
import { type Peer, startPeer } from '../support/peers.ts';
import { waitUntil } from '../support/wait-until.ts';

export interface NbdServer {
  readonly uri: string;
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>;
  /** The same program in the same place. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Where a server listens. */
export type Place = { readonly socket: string } | { readonly port: number };

/** A TCP port of this machine that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** nbdkit with `args`: plugin, filters, parameters. */
export function startNbdkitAt(place: Place, args: readonly string[]): Promise<NbdServer> {
  const where =
    'socket' in place ? ['--unix', place.socket] : ['--ipaddr', '127.0.0.1', '--port', String(place.port)];
  return start('nbdkit', ['--foreground', ...where, ...args], place);
}

/** qemu-nbd with `args`: the image, its format. It serves one client after the other. */
export function startQemuNbdAt(place: Place, args: readonly string[]): Promise<NbdServer> {
  const where =
    'socket' in place ? ['--socket', place.socket] : ['--bind', '127.0.0.1', '--port', String(place.port)];
  return start('qemu-nbd', ['--persistent', '--shared', '4', ...where, ...args], place);
}

async function start(program: string, args: readonly string[], place: Place): Promise<NbdServer> {
  let peer: Peer;
  async function run(): Promise<void> {
    // A server that was killed left its socket; nbdkit doesn't take it over.
    if ('socket' in place) rmSync(place.socket, { force: true });
    peer = startPeer(program, args);
    await waitUntil(
      async () => {
        const early = await Promise.race([peer.exited, undefined]);
        if (early) throw new Error(`${program} ${args.join(' ')} ended at once:\n${early.stderr}`);
        return accepts(place);
      },
      { what: `${program} to accept connections`, intervalMs: 5 },
    );
  }
  await run();
  return {
    uri: 'socket' in place ? `nbd+unix:///?socket=${place.socket}` : `nbd://127.0.0.1:${place.port}`,
    kill: async () => {
      await peer.kill();
    },
    restart: run,
    stop: async () => {
      await peer.stop(2000);
    },
  };
}

/** Whether a connection can be made. */
function accepts(place: Place): Promise<boolean> {
  return new Promise((resolve) => {
    const socket =
      'socket' in place ? connect(place.socket) : connect({ host: '127.0.0.1', port: place.port });
    // A server of one client at a time has to be seen to greet before it is left.
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}
