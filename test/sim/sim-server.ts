// What a hub listens with: takes connections of the simulated network while its process lives.
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type { Host } from './clock.ts';
import type { Network } from './network.ts';
import type { SimSocket } from './sim-socket.ts';

/** Nobody hears of a connection that is gone before it was accepted. */
export const ignore = (): void => {};

export class SimServer extends EventEmitter {
  readonly host: Host;
  maxConnections = 0;
  readonly #net: Network;
  readonly #accept: (socket: Socket) => void;
  #port = 0;
  #isOpen = false;

  constructor(net: Network, host: Host, accept: (socket: Socket) => void) {
    super();
    this.#net = net;
    this.host = host;
    this.#accept = accept;
  }

  get isListening(): boolean {
    return this.#isOpen && this.host.isAlive;
  }

  listen({ port }: { port: number }, listening: () => void): void {
    this.#port = port;
    this.#net.listen(this, port);
    this.#isOpen = true;
    this.#net.later(0.01, this.host, listening);
  }

  address(): { port: number } {
    return { port: this.#port };
  }

  close(closed: () => void): void {
    this.#isOpen = false;
    this.#net.later(0.01, this.host, closed);
  }

  accepted(socket: SimSocket): void {
    if (!this.#isOpen || socket.destroyed) {
      socket.destroy();
      return;
    }
    this.#accept(socket as unknown as Socket);
    socket.off('error', ignore);
    if (!socket.destroyed) socket.read(0);
  }
}
