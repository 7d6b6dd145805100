// The requests on one connection that wait for a reply, found by cookie in constant time. A cookie is the slot and
// the low half of the serial number, so that a stale or invented one is told from a real one.
import { WireError } from '../../wire/struct.ts';
import type { Request } from './request.ts';

const TWO_POW_32 = 2 ** 32;

/** The half of a request's cookie that isn't its slot. */
export function cookieLow(request: Request): number {
  return request.serial % TWO_POW_32;
}

export class InFlight {
  readonly #slots: Array<Request | undefined>;
  readonly #free: number[];

  constructor(capacity: number) {
    this.#slots = new Array<Request | undefined>(capacity).fill(undefined);
    this.#free = Array.from({ length: capacity }, (_, index) => capacity - 1 - index);
  }

  get size(): number {
    return this.#slots.length - this.#free.length;
  }

  get full(): boolean {
    return this.#free.length === 0;
  }

  /** Gives the request a slot; there must be one. */
  add(request: Request): void {
    const slot = this.#free.pop()!;
    request.slot = slot;
    this.#slots[slot] = request;
  }

  /** @throws WireError when no request with that cookie waits */
  find(cookieHigh: number, low: number): Request {
    const request = this.#slots[cookieHigh];
    if (!request || cookieLow(request) !== low) {
      throw new WireError(`a reply to a request that is not outstanding (cookie ${cookieHigh}/${low})`);
    }
    return request;
  }

  remove(request: Request): void {
    this.#slots[request.slot] = undefined;
    this.#free.push(request.slot);
    request.slot = -1;
  }

  *[Symbol.iterator](): Generator<Request> {
    for (const request of this.#slots) if (request) yield request;
  }

  /** The request that was sent longest ago. */
  oldest(): Request | undefined {
    let oldest: Request | undefined;
    for (const request of this.#slots) {
      if (request && (!oldest || request.sentAtMs < oldest.sentAtMs)) oldest = request;
    }
    return oldest;
  }

  /** Everything, in order of submission, and forgets it. */
  takeAll(): Request[] {
    const all = this.#slots.filter((request) => request !== undefined);
    for (const request of all) this.remove(request);
    return all.sort((a, b) => a.serial - b.serial);
  }
}
