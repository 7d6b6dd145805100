// Keeps a connection to the hub: dials, hands the connection to a session, and dials again when it is gone. There is
// never more than one. It must give up only when it's closed, and never hammer a hub that is away.
import { connect, type Socket } from 'node:net';
import { errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { StickyError } from '../base/sticky-error.ts';
import { connectTls } from '../transport/tls-client.ts';
import type { ClientCredentials } from '../transport/tls-credentials.ts';
import type { HubSession } from './hub-session.ts';
import { type LinkEvent, type LinkState, nextLinkState } from './link-states.ts';

export interface ReconnectOptions {
  /** First wait between two attempts, ms; doubled each time. */
  readonly firstMs: number;
  /** Longest wait, ms. */
  readonly longestMs: number;
  /** A connection that was of use for so long makes the next wait the first one again, ms. */
  readonly steadyMs: number;
  /** How long one attempt may take, ms. */
  readonly connectTimeoutMs: number;
  /** How long a hub may be silent after the report before it's dialed again, ms. */
  readonly helloTimeoutMs: number;
}

export const DEFAULT_RECONNECT: ReconnectOptions = {
  firstMs: 200,
  longestMs: 5000,
  steadyMs: 5000,
  connectTimeoutMs: 10_000,
  helloTimeoutMs: 60_000,
};

export interface SessionHooks {
  readonly onNegotiated: () => void;
  readonly onEnded: (reason: Error | undefined) => void;
}

/** How the hub proves who it is, and this agent to it. */
export interface HubTls {
  /** Asked at every dialing, so that they may be replaced. */
  readonly credentials: () => ClientCredentials;
  /** The name that the hub's certificate must be for. */
  readonly serverName: string;
}

/** Begins a connection: the socket emits `connect`, or `error` and `close`. */
export type Dial = (to: { readonly host: string; readonly port: number }) => Socket;

export interface HubLinkOptions {
  readonly host: string;
  readonly port: number;
  /** TCP unless given. */
  readonly dial?: Dial | undefined;
  readonly reconnect: ReconnectOptions;
  /** Without it everything is sent in the clear. There is no falling back from one to the other. */
  readonly tls?: HubTls | undefined;
  readonly openSession: (socket: Socket, hooks: SessionHooks) => HubSession;
  readonly logger: Logger;
}

export class HubLink {
  readonly errors = new StickyError();
  readonly #options: HubLinkOptions;
  #state: LinkState = 'idle';
  #session: HubSession | undefined;
  #dialing: Socket | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failures = 0;
  #negotiatedAtMs: number | undefined;
  #connections = 0;
  #lastError: string | undefined;

  constructor(options: HubLinkOptions) {
    this.#options = options;
  }

  get state(): LinkState {
    return this.#state;
  }

  /** Why there is no connection, or why there was none. Gone once the hub has said what it speaks. */
  get lastError(): string | null {
    return this.#lastError ?? null;
  }

  get session(): HubSession | undefined {
    return this.#session;
  }

  /** Connections on which the hub said what it speaks. */
  get connections(): number {
    return this.#connections;
  }

  start(): void {
    if (this.#state === 'idle' && !this.#retry && !this.#dialing) this.#dial();
  }

  note(event: LinkEvent): void {
    const next = nextLinkState(this.#state, event);
    if (next === this.#state) return;
    this.#options.logger.debug({ from: this.#state, to: next, event }, 'link');
    this.#state = next;
  }

  /** Ends for good. @param timeoutMs for what is queued to be sent and acknowledged */
  async close(timeoutMs: number): Promise<void> {
    this.note('close');
    clearTimeout(this.#retry);
    this.#dialing?.destroy();
    await this.#session?.finish(timeoutMs);
    this.note('ended');
  }

  #dial(): void {
    const { host, port, reconnect, dial = connect } = this.#options;
    this.#retry = undefined;
    this.note('dial');
    let reason: Error | undefined;
    const socket = dial({ host, port });
    this.#dialing = socket;
    const timer = setTimeout(() => {
      socket.destroy(new Error(`no connection within ${reconnect.connectTimeoutMs} ms`));
    }, reconnect.connectTimeoutMs);
    const failed = (error: Error): void => {
      reason = error;
    };
    const closed = (): void => {
      clearTimeout(timer);
      this.#dialing = undefined;
      this.#lost(reason);
    };
    socket.on('error', failed);
    socket.on('close', closed);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      socket.off('close', closed);
      if (this.#options.tls) {
        void this.#secure(socket, this.#options.tls);
        return;
      }
      this.#dialing = undefined;
      this.#connected(socket);
    });
  }

  async #secure(socket: Socket, { credentials, serverName }: HubTls): Promise<void> {
    const { connectTimeoutMs: timeoutMs } = this.#options.reconnect;
    try {
      const secure = await connectTls(socket, credentials(), { serverName, timeoutMs });
      this.#dialing = undefined;
      if (this.#state === 'dialing') this.#connected(secure);
      else secure.destroy();
    } catch (error) {
      this.#dialing = undefined;
      socket.destroy();
      this.#lost(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #connected(socket: Socket): void {
    this.note('connected');
    this.#negotiatedAtMs = undefined;
    // A host that died just now, or anything but a hub, would hold the link for as long as TCP tries.
    const { helloTimeoutMs } = this.#options.reconnect;
    const deadline = setTimeout(() => {
      this.#session?.end(new Error(`the hub has said nothing for ${helloTimeoutMs} ms`));
    }, helloTimeoutMs);
    const hooks: SessionHooks = {
      onNegotiated: () => {
        clearTimeout(deadline);
        this.note('negotiated');
        this.#negotiatedAtMs = performance.now();
        this.#connections += 1;
        this.#lastError = undefined;
      },
      onEnded: (reason) => {
        clearTimeout(deadline);
        this.#session = undefined;
        this.#lost(reason ?? new Error('the hub ended the connection'));
      },
    };
    try {
      this.#session = this.#options.openSession(socket, hooks);
      this.#session.report();
    } catch (error) {
      // Nothing on this path may reach the process, which serves guests.
      const reason = error instanceof Error ? error : new Error(String(error));
      if (this.#session) {
        this.#session.end(reason);
        return;
      }
      clearTimeout(deadline);
      socket.destroy();
      this.#lost(reason);
    }
  }

  #lost(reason: Error | undefined): void {
    const { reconnect, logger } = this.#options;
    const wasUp = this.#negotiatedAtMs;
    const wasSteady = wasUp !== undefined && performance.now() - wasUp >= reconnect.steadyMs;
    this.#negotiatedAtMs = undefined;
    if (this.#state === 'closing' || this.#state === 'closed') return;
    this.note('lost');
    this.#failures = wasSteady ? 0 : this.#failures + 1;
    const delayMs = this.#delayMs(wasSteady ? 0 : this.#failures - 1);
    const text = describe(reason, this.#options);
    // Only what is new is worth a line: a hub that is away is away at every attempt.
    const level = text === this.#lastError ? 'debug' : 'warn';
    this.#lastError = text;
    this.errors.note(text);
    logger[level]({ retryInMs: Math.round(delayMs) }, text);
    this.#retry = setTimeout(() => this.#dial(), delayMs);
  }

  /** Doubles up to the longest, and scatters, so that many agents don't come back in one moment. */
  #delayMs(failures: number): number {
    const { firstMs, longestMs } = this.#options.reconnect;
    const fullMs = Math.min(longestMs, firstMs * 2 ** Math.min(failures, 30));
    return fullMs * (0.5 + Math.random() / 2);
  }
}

function describe(reason: Error | undefined, { host, port }: HubLinkOptions): string {
  return `hub ${host}:${port}: ${reason ? errorMessage(reason) : 'the connection ended'}`;
}
