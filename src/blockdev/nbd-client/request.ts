// A request from submission to answer, and queues of them. Requests are reused, and chained through themselves, so
// that a busy device allocates only the promise that its caller waits for.
import { NBD_CMD, nameOf } from '../../nbdwire/constants.ts';
import { type AwaitedRequest, ReplyProgress } from '../../nbdwire/reply-progress.ts';
import type { StatusList } from '../../nbdwire/status-list.ts';
import type { LogEntry } from './unflushed-log.ts';

/** Who asked: decides what an answer leads to. */
export type RequestOrigin = 'caller' | 'replay' | 'checkpoint';

export class Request implements AwaitedRequest {
  origin: RequestOrigin = 'caller';
  /** One of NBD_CMD, and its NBD_CMD_FLAG_... */
  command = 0;
  flags = 0;
  offset = 0;
  length = 0;
  /** WRITE: the data. READ: where it goes. Lent by the caller until the answer. */
  buffer: Buffer | undefined;
  /** BLOCK_STATUS: where the extents go. */
  status: StatusList | undefined;
  /** Order of submission; its low 32 bits are half of the cookie. */
  serial = 0;
  /** FLUSH: what it covers, as the unflushed log counts. */
  mark = 0;
  /** FLUSH: it answers for lost changes that nobody has been told of yet. */
  reportsLoss = false;
  /** replay: what is sent once more. */
  entry: LogEntry | undefined;

  // Kept by the connection that carries it.
  slot = -1;
  sentAtMs = 0;
  /** The batch that it left in, to know whether all of it has left. */
  batch = 0;
  readonly progress = new ReplyProgress();
  /** Connections that had to be given up because of what came in reply to it. */
  breaks = 0;

  next: Request | undefined;
  resolve: (() => void) | undefined;
  reject: ((error: Error) => void) | undefined;
  readonly #executor = (resolve: () => void, reject: (error: Error) => void): void => {
    this.resolve = resolve;
    this.reject = reject;
  };

  /** Makes the promise of this use of the request. */
  promise(): Promise<void> {
    return new Promise(this.#executor);
  }

  get changesDisk(): boolean {
    return this.command === NBD_CMD.WRITE || this.command === NBD_CMD.WRITE_ZEROES;
  }

  toString(): string {
    const name = nameOf(NBD_CMD, this.command);
    return this.command === NBD_CMD.FLUSH ? name : `${name} of ${this.length} bytes at ${this.offset}`;
  }
}

/** First in, first out. */
export class RequestQueue {
  #first: Request | undefined;
  #last: Request | undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get first(): Request | undefined {
    return this.#first;
  }

  push(request: Request): void {
    request.next = undefined;
    if (this.#last) this.#last.next = request;
    else this.#first = request;
    this.#last = request;
    this.#size += 1;
  }

  shift(): Request | undefined {
    const request = this.#first;
    if (!request) return undefined;
    this.#first = request.next;
    if (!this.#first) this.#last = undefined;
    request.next = undefined;
    this.#size -= 1;
    return request;
  }

  /** Puts requests, in order, before all others. */
  unshift(requests: readonly Request[]): void {
    for (const request of requests.toReversed()) {
      request.next = this.#first;
      this.#first = request;
      this.#last ??= request;
      this.#size += 1;
    }
  }
}

/** Requests that are kept for reuse; beyond it they are left to the collector. */
const MAX_FREE_REQUESTS = 1024;

export class RequestPool {
  readonly #free: Request[] = [];

  take(): Request {
    return this.#free.pop() ?? new Request();
  }

  /** The request is answered, and nothing refers to it any more. */
  give(request: Request): void {
    if (this.#free.length >= MAX_FREE_REQUESTS) return;
    request.buffer = undefined;
    request.status = undefined;
    request.breaks = 0;
    request.entry = undefined;
    request.next = undefined;
    request.resolve = undefined;
    request.reject = undefined;
    this.#free.push(request);
  }
}
