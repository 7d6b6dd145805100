// One worker, as the process that clients talk to sees it: started, spoken to, started again when it ends by itself. What it
// had is never shown as served while it's gone, and whoever waits for it is told so.
import type { ChildProcess } from 'node:child_process';
import { errorMessage, OperationError } from '../../../base/errors.ts';
import { deferred } from '../../../base/lifecycle.ts';
import type { Logger } from '../../../base/log.ts';
import type { VerifyProgress, WorkerStatus } from '../../../control/status.ts';
import type { NegotiatedClient } from '../../../nbd/hand-over.ts';
import type { SocketHandle } from '../../../transport/socket-engine.ts';
import {
  type ExportFacts,
  type FromWorker,
  type ToWorker,
  toldError,
  type WorkerCall,
  type WorkerOrder,
} from './messages.ts';
import { PendingCalls } from './pending-calls.ts';

/** A child process as far as it matters here. */
export type WorkerChild = Pick<ChildProcess, 'pid' | 'on' | 'send' | 'kill'>;

export interface WorkerOptions {
  readonly order: WorkerOrder;
  /** Starts the program. */
  readonly launch: () => WorkerChild;
  /** What it serves, at each start and when that changes. */
  readonly onFacts: (facts: readonly ExportFacts[]) => void;
  readonly onResized: (name: string, sizeBytes: number) => void;
  readonly logger: Logger;
  readonly restart?: RestartTimes;
}

export interface RestartTimes {
  /** Before it is started again the first time, doubled with each one that follows, ms. */
  readonly firstMs: number;
  readonly longestMs: number;
  /** A worker that was ready for so long is started again as if for the first time, ms. */
  readonly steadyMs: number;
}

const DEFAULT_RESTART: RestartTimes = { firstMs: 500, longestMs: 30_000, steadyMs: 60_000 };

interface GivenClient {
  readonly gone: () => void;
  /** Ours until it is on its way. */
  handle: SocketHandle | undefined;
  hasArrived: boolean;
}

export class WorkerProcess {
  readonly #options: WorkerOptions;
  readonly #logger: Logger;
  readonly #times: RestartTimes;
  readonly #calls = new PendingCalls();
  readonly #clients = new Map<number, GivenClient>();
  readonly #looks = new Map<string, Promise<unknown>>();
  readonly #first = deferred<void>();
  /** Of the child that runs, or ran last. */
  #ended = deferred<number | null>();
  #child: WorkerChild | undefined;
  #state: WorkerStatus['state'] = 'starting';
  #lastClient = 0;
  #restarts = 0;
  #failures = 0;
  #readyAt: number | undefined;
  #lastError: string | null = null;
  #failure: Error | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.#logger = options.logger.child({ worker: options.order.number });
    this.#times = options.restart ?? DEFAULT_RESTART;
  }

  get status(): WorkerStatus {
    return {
      pid: this.#child?.pid ?? null,
      state: this.#state,
      volumes: this.#options.order.volumes,
      restarts: this.#restarts,
      lastError: this.#lastError,
    };
  }

  /** Why its volumes can't be used; undefined when they can. */
  get absence(): string | undefined {
    if (this.#state === 'running') return undefined;
    if (this.#state === 'stopping') return 'the server is shutting down';
    return this.#lastError === null
      ? 'its worker is being started'
      : `${this.#lastError}; it is being started again`;
  }

  /** Starts it. @throws the worker's own error when it can't begin, or OperationError when it ended before */
  async start(): Promise<void> {
    this.#launch();
    await this.#first.promise;
  }

  /** Gives it a client whose socket is ours. @param gone called once, when nothing is left of the client */
  take(client: NegotiatedClient, handle: SocketHandle, gone: () => void): void {
    if (this.#state !== 'running') {
      handle.close();
      gone();
      return;
    }
    this.#lastClient += 1;
    const id = this.#lastClient;
    const given: GivenClient = { gone, handle, hasArrived: false };
    this.#clients.set(id, given);
    this.#send({ kind: 'client', id, client }, handle, () => {
      // Its copy is on the way, or there is nobody to have one.
      given.handle?.close();
      given.handle = undefined;
    });
  }

  /**
   * Asks it.
   * @param signal aborted when whoever asked has gone
   * @throws OperationError when it is not there, or ends meanwhile; whatever the call failed with
   */
  async ask(
    call: WorkerCall,
    about: { onProgress?: (progress: VerifyProgress) => void; signal?: AbortSignal } = {},
  ): Promise<unknown> {
    if (this.#readyAt === undefined) throw this.#unavailable(this.absence ?? 'it has ended');
    return this.#calls.ask((id) => {
      this.#send({ kind: 'call', id, call });
      about.signal?.addEventListener('abort', () => this.#send({ kind: 'abandoned', id }), { once: true });
    }, about.onProgress);
  }

  /** Asks what costs nothing to tell. While that is unanswered, whoever asks again waits for the same answer. */
  look(what: 'status' | 'stats'): Promise<unknown> {
    const open = this.#looks.get(what);
    if (open) return open;
    const look = this.ask({ what }).finally(() => this.#looks.delete(what));
    this.#looks.set(what, look);
    return look;
  }

  /** Has it end in order, and waits for that. @throws OperationError when it didn't end well */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#state = 'stopping';
    if (!this.#child) return;
    this.#send({ kind: 'close' });
    const code = await this.#ended.promise;
    if (code !== 0)
      throw new OperationError(
        `the worker of ${this.#names} ${this.#lastError ?? `ended with status ${code}`}`,
      );
  }

  get #names(): string {
    return this.#options.order.volumes.join(', ');
  }

  #unavailable(why: string): OperationError {
    return new OperationError(`the worker of ${this.#names} is not there: ${why}`, {
      hint: 'see its log, and `repagent status`',
    });
  }

  #launch(): void {
    let child: WorkerChild;
    try {
      child = this.#options.launch();
    } catch (error) {
      this.#exited(`could not be started: ${errorMessage(error)}`, null);
      return;
    }
    this.#child = child;
    this.#failure = undefined;
    this.#ended = deferred();
    let over = false;
    const end = (how: string, code: number | null): void => {
      if (over) return;
      over = true;
      this.#exited(how, code);
    };
    child.on('message', (message) => {
      if (!over) this.#take(message as FromWorker);
    });
    child.on('error', (error) => {
      // One that never was has no exit.
      if (child.pid === undefined) end(`could not be started: ${errorMessage(error)}`, null);
      else this.#logger.debug({ err: errorMessage(error) }, 'a message to the worker was lost');
    });
    child.on('exit', (code, signal) =>
      end(signal === null ? `ended with status ${code}` : `was ended by ${signal}`, code),
    );
    this.#send({ kind: 'start', order: this.#options.order });
  }

  #take(message: FromWorker): void {
    switch (message.kind) {
      case 'ready':
        this.#ready(message.exports);
        return;
      case 'failed':
        this.#failure = toldError(message.error);
        return;
      case 'taken':
        this.#taken(message.id);
        return;
      case 'gone':
        this.#forget(message.id);
        return;
      case 'resized':
        this.#options.onResized(message.name, message.sizeBytes);
        return;
      case 'progress':
      case 'answer':
      case 'error':
        this.#calls.take(message);
    }
  }

  /** What was sent before it and has not arrived never will: the worker had no descriptor left for it, say. */
  #taken(id: number): void {
    for (const [other, given] of this.#clients) {
      if (other > id) break;
      if (other < id && !given.hasArrived) {
        this.#logger.warn(
          { volumes: this.#options.order.volumes },
          'an NBD client got lost on its way to the worker',
        );
        this.#forget(other);
      }
      given.hasArrived = true;
    }
  }

  #forget(id: number): void {
    this.#clients.get(id)?.gone();
    this.#clients.delete(id);
  }

  #ready(facts: readonly ExportFacts[]): void {
    this.#options.onFacts(facts);
    this.#readyAt = performance.now();
    if (this.#state === 'starting' || this.#state === 'restarting') this.#state = 'running';
    this.#logger.info({ volumes: this.#options.order.volumes, pid: this.#child?.pid }, 'worker ready');
    this.#first.resolve();
  }

  #exited(how: string, code: number | null): void {
    const wasReady = this.#readyAt;
    const wasSteady = wasReady !== undefined && performance.now() - wasReady >= this.#times.steadyMs;
    this.#child = undefined;
    this.#readyAt = undefined;
    for (const given of this.#clients.values()) {
      given.handle?.close();
      given.handle = undefined;
      given.gone();
    }
    this.#clients.clear();
    if (this.#state !== 'stopping' || code !== 0)
      this.#lastError = this.#failure?.message ?? `the worker ${how}`;
    this.#calls.failAll(this.#unavailable(`it ${how}`));
    this.#ended.resolve(code);
    if (this.#state === 'stopping') {
      this.#first.reject(this.#failure ?? this.#unavailable(`it ${how}`));
      return;
    }
    if (this.#state === 'starting') {
      this.#state = 'stopping';
      this.#first.reject(this.#failure ?? this.#unavailable(`it ${how}`));
      return;
    }
    this.#failures = wasSteady ? 1 : this.#failures + 1;
    this.#restartLater(how);
  }

  #restartLater(how: string): void {
    const { firstMs, longestMs } = this.#times;
    const delayMs = Math.min(longestMs, firstMs * 2 ** Math.min(this.#failures - 1, 20));
    this.#state = 'restarting';
    const about = {
      volumes: this.#options.order.volumes,
      reason: this.#failure?.message,
      retryInMs: delayMs,
    };
    this.#logger.error(about, `the worker ${how}: its clients are gone, and it is started again`);
    this.#timer = setTimeout(() => {
      this.#restarts += 1;
      this.#launch();
    }, delayMs);
  }

  #send(message: ToWorker, handle?: SocketHandle, sent: () => void = () => {}): void {
    // The types know only handles that Node wraps; the bare ones are what `cluster` sends.
    const bare = handle as unknown as Parameters<ChildProcess['send']>[1];
    this.#child?.send(message, bare, undefined, () => sent());
  }
}
