// A TCP proxy on loopback that does to connections what networks do: cuts them at any byte, lets them stall, goes silent
// on one side, refuses. It passes bytes on unchanged and in order, and never loses one of a connection that lives.
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Which way bytes go: `up` from who dialed to the target, `down` back. */
export type Direction = 'up' | 'down';

const BOTH: readonly Direction[] = ['up', 'down'];

class ProxiedLink {
  readonly #dialer: Socket;
  readonly #target: Socket;
  readonly #proxy: CutProxy;
  readonly #left: Record<Direction, number> = {
    up: Number.POSITIVE_INFINITY,
    down: Number.POSITIVE_INFINITY,
  };
  #silent = false;
  over = false;

  constructor(dialer: Socket, target: Socket, proxy: CutProxy) {
    this.#dialer = dialer;
    this.#target = target;
    this.#proxy = proxy;
    this.#join('up', dialer, target);
    this.#join('down', target, dialer);
    for (const direction of BOTH) if (proxy.isStalled(direction)) this.stall(direction);
  }

  get isSilent(): boolean {
    return this.#silent;
  }

  /** Both sides see a reset. */
  cut(): void {
    this.over = true;
    this.#dialer.resetAndDestroy();
    this.#target.resetAndDestroy();
  }

  cutAfter(bytes: number, direction: Direction): void {
    this.#left[direction] = bytes;
  }

  stall(direction: Direction): void {
    this.#from(direction).pause();
  }

  goOn(direction: Direction): void {
    this.#from(direction).resume();
  }

  #from(direction: Direction): Socket {
    return direction === 'up' ? this.#dialer : this.#target;
  }

  /** The target's side ends; who dialed hears nothing, now or ever, and what it sends is swallowed. */
  goSilent(): void {
    this.#silent = true;
    this.#target.resetAndDestroy();
    this.#dialer.resume();
  }

  #join(direction: Direction, from: Socket, to: Socket): void {
    from.setNoDelay(true);
    let last: Promise<void> | undefined;
    from.on('data', (chunk: Buffer) => {
      const { delayMs } = this.#proxy;
      if (!last && delayMs === 0) {
        this.#pass(direction, from, to, chunk);
        return;
      }
      // What is late must not be overtaken by what comes after it; nor is more taken in than fits the line.
      from.pause();
      const before = last;
      const mine: Promise<void> = this.#passSlowly(direction, from, to, chunk, before).finally(() => {
        if (last !== mine) return;
        last = undefined;
        if (!this.#proxy.isStalled(direction) && !to.writableNeedDrain) from.resume();
      });
      last = mine;
    });
    from.on('error', () => {});
    from.on('end', () => {
      const end = (): void => {
        if (!this.#silent) to.end();
      };
      if (last) void last.then(end);
      else end();
    });
    from.on('close', () => {
      if (from === this.#dialer) this.over = true;
      if (!this.#silent) to.destroy();
    });
    to.on('drain', () => {
      if (!this.#proxy.isStalled(direction)) from.resume();
    });
  }

  async #passSlowly(
    direction: Direction,
    from: Socket,
    to: Socket,
    chunk: Buffer,
    before: Promise<void> | undefined,
  ): Promise<void> {
    await before;
    for (let at = 0; at < chunk.length; ) {
      const { delayMs, pieceBytes } = this.#proxy;
      if (delayMs > 0) await sleep(delayMs);
      const end = delayMs > 0 ? Math.min(chunk.length, at + pieceBytes) : chunk.length;
      this.#pass(direction, from, to, chunk.subarray(at, end));
      at = end;
    }
  }

  #pass(direction: Direction, from: Socket, to: Socket, chunk: Buffer): void {
    if (this.#silent || to.destroyed) return;
    if (chunk.length >= this.#left[direction]) {
      // Everything up to here arrives, the rest never does.
      this.#silent = true;
      to.end(chunk.subarray(0, this.#left[direction]));
      from.destroy();
      return;
    }
    this.#left[direction] -= chunk.length;
    this.#proxy.passedBytes[direction] += chunk.length;
    if (!to.write(chunk)) from.pause();
  }
}

export class CutProxy {
  readonly #server: Server;
  readonly #links = new Set<ProxiedLink>();
  /** Where new connections lead. */
  targetPort: number;
  /** New connections end at once. */
  refuses = false;
  /** Each piece waits so long before it is passed on, ms; with a size of pieces it is a narrow line. */
  delayMs = 0;
  pieceBytes = Number.POSITIVE_INFINITY;
  /** What was passed on so far. */
  readonly passedBytes: Record<Direction, number> = { up: 0, down: 0 };
  readonly #stalled = new Set<Direction>();
  #accepted = 0;
  #holds = false;
  #held: Socket[] = [];

  private constructor(targetPort: number) {
    this.targetPort = targetPort;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  static async listen(targetPort: number): Promise<CutProxy> {
    const proxy = new CutProxy(targetPort);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Connections that were passed on so far. */
  get accepted(): number {
    return this.#accepted;
  }

  isStalled(direction: Direction): boolean {
    return this.#stalled.has(direction);
  }

  /** Ends every connection now, with a reset. */
  cut(): void {
    for (const link of this.#living()) link.cut();
  }

  /** Ends the connections once so many more bytes have passed one way, wherever in a frame that is. */
  cutAfter(bytes: number, direction: Direction): void {
    for (const link of this.#living()) link.cutAfter(bytes, direction);
  }

  /** Passes nothing on, one way or both, until `goOn`; new connections stand and are silent too. */
  stall(...directions: Direction[]): void {
    for (const direction of directions.length > 0 ? directions : BOTH) {
      this.#stalled.add(direction);
      for (const link of this.#living()) link.stall(direction);
    }
  }

  goOn(...directions: Direction[]): void {
    for (const direction of directions.length > 0 ? directions : BOTH) {
      this.#stalled.delete(direction);
      for (const link of this.#living()) link.goOn(direction);
    }
  }

  /** New connections stand until the target is there: see `letThrough`. */
  hold(): void {
    this.#holds = true;
  }

  /** Those that were held, and all that come, go to the target. */
  letThrough(targetPort: number): void {
    this.targetPort = targetPort;
    this.#holds = false;
    for (const dialer of this.#held.splice(0)) if (!dialer.destroyed) this.#join(dialer);
  }

  /** The target's machine is gone: who dialed keeps a connection from which nothing ever comes. */
  goSilent(): void {
    for (const link of this.#living()) link.goSilent();
  }

  /** Those who dialed and heard nothing since are told that it's over. */
  endSilent(): void {
    for (const link of this.#living()) if (link.isSilent) link.cut();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.refuses = true;
    for (const link of this.#links) link.cut();
    for (const dialer of this.#held) dialer.destroy();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #living(): ProxiedLink[] {
    for (const link of this.#links) if (link.over) this.#links.delete(link);
    return [...this.#links];
  }

  #accept(dialer: Socket): void {
    dialer.on('error', () => {});
    if (this.refuses) {
      dialer.resetAndDestroy();
      return;
    }
    dialer.pause();
    if (this.#holds) this.#held.push(dialer);
    else this.#join(dialer);
  }

  #join(dialer: Socket): void {
    const target = connect({ host: '127.0.0.1', port: this.targetPort, allowHalfOpen: true });
    target.on('error', () => dialer.destroy());
    dialer.once('close', () => target.destroy());
    target.once('connect', () => {
      this.#accepted += 1;
      const link = new ProxiedLink(dialer, target, this);
      this.#links.add(link);
      if (!this.#stalled.has('up')) dialer.resume();
    });
  }
}
