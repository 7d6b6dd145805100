// Requests to the agent that have no answer yet, by the number that the answer will carry.
import { WireError } from '../wire/struct.ts';

const MAX_REQUEST_ID = 0x7fff_ffff;

export class RequestTable<T> {
  readonly #what: string;
  readonly #open = new Map<number, T>();
  #lastId = 0;

  /** @param what names the answers in errors */
  constructor(what: string) {
    this.#what = what;
  }

  get size(): number {
    return this.#open.size;
  }

  /** @returns the request's number, which no open one has */
  add(request: T): number {
    do {
      this.#lastId = this.#lastId === MAX_REQUEST_ID ? 1 : this.#lastId + 1;
    } while (this.#open.has(this.#lastId));
    this.#open.set(this.#lastId, request);
    return this.#lastId;
  }

  /** @throws WireError when nothing was asked under this number */
  take(id: number): T {
    const request = this.#open.get(id);
    if (request === undefined) throw new WireError(`${this.#what} ${id} answers nothing that was asked`);
    this.#open.delete(id);
    return request;
  }
}
