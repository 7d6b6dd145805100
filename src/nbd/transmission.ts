// Carries requests out on a device and puts the replies on the queue, in the order in which the device answers. What
// the device answers at once costs no promise, no closure and no record; what it answers later gets a record.
import { AssertionError } from '../base/assert.ts';
import type { Slab } from '../base/buffer-pool.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { NBD_CMD, NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE, NBD_ERROR } from '../nbdwire/constants.ts';
import type { RequestHeader } from '../nbdwire/request.ts';
import { nbdErrorOf } from './error-map.ts';
import { readInPieces, writeInPieces } from './large-requests.ts';
import type { DetachedRead, ReplyQueue } from './reply-queue.ts';
import type { SlabTally } from './slab-tally.ts';

export interface TransmissionEvents {
  /** A request that was in flight has its reply on the queue. */
  completed(): void;
  /** The device failed a request. Called for each. */
  failed(error: unknown): void;
}

export class Transmission {
  readonly #device: BlockDevice;
  readonly #maxRequestBytes: number;
  readonly #replies: ReplyQueue;
  readonly #tally: SlabTally;
  readonly #events: TransmissionEvents;
  readonly #freeRecords: InFlight[] = [];
  #requests = 0;
  #bytes = 0;

  /** @param tally counts the slabs of requests that the device has in hand */
  constructor(device: BlockDevice, replies: ReplyQueue, tally: SlabTally, events: TransmissionEvents) {
    this.#tally = tally;
    this.#device = device;
    this.#maxRequestBytes = device.limits.maxRequestBytes;
    this.#replies = replies;
    this.#events = events;
  }

  /** Requests that the device has in hand. */
  get inFlightRequests(): number {
    return this.#requests;
  }

  /** Payload bytes of those requests, both ways. */
  get inFlightBytes(): number {
    return this.#bytes;
  }

  /** Carries out a request without payload that was found valid. */
  run(request: RequestHeader): void {
    if (request.type === NBD_CMD.READ) {
      this.#read(request);
      return;
    }
    let result: MaybePromise<void>;
    try {
      result = this.#call(request);
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (result instanceof Promise) this.#await(request, result, undefined, undefined, 0);
    else this.#replies.addHeader(NBD_ERROR.OK, request.cookieHigh, request.cookieLow);
  }

  /** Carries out a valid WRITE. @param data lies in `slab`, and is lent until the device answers */
  write(request: RequestHeader, data: Buffer, slab: Slab): void {
    let result: MaybePromise<void>;
    try {
      result = this.#writeData(request.offset, data, isFua(request));
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (result instanceof Promise) {
      slab.retain();
      this.#await(request, result, slab, undefined, data.length);
    } else {
      this.#replies.addHeader(NBD_ERROR.OK, request.cookieHigh, request.cookieLow);
    }
  }

  #read(request: RequestHeader): void {
    const { length } = request;
    const target = this.#replies.openRead(length);
    let result: MaybePromise<void>;
    try {
      result = this.#readData(request.offset, target);
    } catch (error) {
      this.#replies.dropRead();
      this.#fail(request, error);
      return;
    }
    if (result instanceof Promise) {
      this.#await(request, result, undefined, this.#replies.detachRead(), length);
    } else {
      this.#replies.commitRead(request.cookieHigh, request.cookieLow);
    }
  }

  #writeData(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (data.length === 0) return undefined;
    if (data.length > this.#maxRequestBytes) return writeInPieces(this.#device, offset, data, fua);
    return this.#device.write(offset, data, fua);
  }

  #readData(offset: number, target: Buffer): MaybePromise<void> {
    if (target.length === 0) return undefined;
    if (target.length > this.#maxRequestBytes) return readInPieces(this.#device, offset, target);
    return this.#device.read(offset, target);
  }

  #call(request: RequestHeader): MaybePromise<void> {
    const { type, flags, offset, length } = request;
    if (type === NBD_CMD.FLUSH) return this.#device.flush();
    if (length === 0) return undefined;
    switch (type) {
      case NBD_CMD.TRIM:
        return this.#device.trim(offset, length, isFua(request));
      case NBD_CMD.WRITE_ZEROES: {
        const mayTrim = (flags & NBD_CMD_FLAG_NO_HOLE) === 0;
        return this.#device.writeZeroes(offset, length, isFua(request), mayTrim);
      }
      case NBD_CMD.CACHE:
        return this.#device.cache(offset, length);
      default:
        throw new AssertionError(`request ${request} was not checked`);
    }
  }

  #fail(request: RequestHeader, error: unknown): void {
    this.#replies.addHeader(nbdErrorOf(error), request.cookieHigh, request.cookieLow);
    this.#events.failed(error);
  }

  #await(
    request: RequestHeader,
    result: Promise<void>,
    slab: Slab | undefined,
    read: DetachedRead | undefined,
    bytes: number,
  ): void {
    const record = this.#freeRecords.pop() ?? new InFlight(this);
    record.cookieHigh = request.cookieHigh;
    record.cookieLow = request.cookieLow;
    record.slab = slab;
    record.read = read;
    record.bytes = bytes;
    const held = slab ?? read?.slab;
    if (held) this.#tally.add(held);
    this.#requests += 1;
    this.#bytes += bytes;
    result.then(record.done, record.failed);
  }

  /** For records only: the device answered. */
  finish(record: InFlight, error: unknown): void {
    this.#requests -= 1;
    this.#bytes -= record.bytes;
    const held = record.slab ?? record.read?.slab;
    if (held) this.#tally.remove(held);
    record.slab?.release();
    const code = error === undefined ? NBD_ERROR.OK : nbdErrorOf(error);
    if (record.read && code === NBD_ERROR.OK) {
      this.#replies.attachRead(record.read, record.cookieHigh, record.cookieLow);
    } else {
      record.read?.slab.release();
      this.#replies.addHeader(code, record.cookieHigh, record.cookieLow);
    }
    record.slab = undefined;
    record.read = undefined;
    this.#freeRecords.push(record);
    if (error !== undefined) this.#events.failed(error);
    this.#events.completed();
  }
}

/** One request that the device answers later. Used again for the next one. */
class InFlight {
  cookieHigh = 0;
  cookieLow = 0;
  bytes = 0;
  /** Keeps a WRITE's data where it is. */
  slab: Slab | undefined;
  read: DetachedRead | undefined;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;

  constructor(owner: Transmission) {
    this.done = () => owner.finish(this, undefined);
    this.failed = (error) => owner.finish(this, error ?? new Error('the device rejected without a reason'));
  }
}

function isFua(request: RequestHeader): boolean {
  return (request.flags & NBD_CMD_FLAG_FUA) !== 0;
}
