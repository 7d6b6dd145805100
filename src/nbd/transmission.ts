// Carries requests out on a device and puts the replies on the queue, in the order in which the device answers. What
// the device answers at once costs no promise, no closure and no record; what it answers later gets a record.
import { AssertionError } from '../base/assert.ts';
import type { Slab } from '../base/buffer-pool.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, Extent } from '../blockdev/block-device.ts';
import { encodeBlockStatus, MAX_STATUS_RUNS, type StatusRun, StatusRuns } from '../nbdwire/block-status.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
} from '../nbdwire/constants.ts';
import { RequestHeader } from '../nbdwire/request.ts';
import { ChunkedRead, planChunks } from './chunked-read.ts';
import { judgeFailure } from './error-map.ts';
import { readInPieces, writeInPieces } from './large-requests.ts';
import { MAX_READ_CHUNKS, MIN_SPARSE_READ_BYTES, STATUS_WORK_BYTES } from './limits.ts';
import type { MetaContext } from './meta-contexts.ts';
import type { DetachedRead, ReplyQueue } from './reply-queue.ts';
import type { SlabTally } from './slab-tally.ts';

export interface TransmissionEvents {
  /** A request that was in flight has its reply on the queue. */
  completed(): void;
  /** The device failed a request. Called for each. */
  failed(error: unknown): void;
}

/** What requests are carried out on. */
export interface TransmissionTarget {
  readonly device: BlockDevice;
  /** By id. */
  readonly metaContexts: readonly MetaContext[];
}

export class Transmission {
  readonly #device: BlockDevice;
  readonly #contexts: readonly MetaContext[];
  readonly #maxRequestBytes: number;
  /** READs of so many bytes are looked at for holes. */
  readonly #sparseReadBytes: number;
  readonly #replies: ReplyQueue;
  readonly #tally: SlabTally;
  readonly #events: TransmissionEvents;
  readonly #freeRecords: InFlight[] = [];
  #requests = 0;
  #bytes = 0;

  /**
   * @param replies with the style that the handshake agreed on
   * @param tally counts the slabs of requests that the device has in hand
   */
  constructor(
    { device, metaContexts }: TransmissionTarget,
    replies: ReplyQueue,
    tally: SlabTally,
    events: TransmissionEvents,
  ) {
    this.#tally = tally;
    this.#device = device;
    this.#contexts = metaContexts;
    this.#maxRequestBytes = device.limits.maxRequestBytes;
    const maySendHoles = replies.style !== 'simple' && device.limits.cheapExtents;
    this.#sparseReadBytes = maySendHoles ? MIN_SPARSE_READ_BYTES : Number.POSITIVE_INFINITY;
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

  /** Carries out a request without payload that was found valid. BLOCK_STATUS has its own way. */
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
    if (result instanceof Promise) this.#await(this.#record(request, 0), result);
    else this.#replies.addDone(request);
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
      const record = this.#record(request, data.length);
      record.slab = slab;
      this.#hold(record, slab);
      this.#await(record, result);
    } else {
      this.#replies.addDone(request);
    }
  }

  /** Carries out a valid BLOCK_STATUS. @param contextIds what to tell, at least one */
  blockStatus(request: RequestHeader, contextIds: readonly number[]): void {
    const chunks: Buffer[] = [];
    let result: MaybePromise<void>;
    try {
      result = this.#tellStatus(request, contextIds, chunks);
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (!(result instanceof Promise)) {
      for (const chunk of chunks) this.#replies.addBytes(chunk);
      return;
    }
    const isOne = (request.flags & NBD_CMD_FLAG_REQ_ONE) !== 0;
    const record = this.#record(request, isOne ? 0 : contextIds.length * STATUS_WORK_BYTES);
    record.status = chunks;
    this.#await(record, result);
  }

  #read(request: RequestHeader): void {
    const { length } = request;
    if (length === 0) {
      if (this.#replies.style === 'simple') this.#replies.addDone(request);
      else this.#replies.addNone(request);
      return;
    }
    const mayFragment = length >= this.#sparseReadBytes && (request.flags & NBD_CMD_FLAG_DF) === 0;
    if (mayFragment && this.#readSparse(request)) return;
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
      const record = this.#record(request, length);
      record.read = this.#replies.detachRead();
      this.#hold(record, record.read.slab);
      this.#await(record, result);
    } else {
      this.#replies.commitRead(request);
    }
  }

  /** Answers a READ in chunks where that spares enough. @returns false when it is best answered in one piece */
  #readSparse(request: RequestHeader): boolean {
    const { offset, length } = request;
    let extents: MaybePromise<Extent[]>;
    try {
      extents = this.#device.extents(offset, length, MAX_READ_CHUNKS);
    } catch (error) {
      // They would only have spared bytes; the read itself says whether the disk is well.
      if (error instanceof AssertionError) throw error;
      return false;
    }
    if (extents instanceof Promise) {
      const record = this.#record(request, length);
      this.#await(record, this.#readWhenKnown(record, extents));
      return true;
    }
    const chunks = planChunks(extents, offset, length);
    if (!chunks) return false;
    const reply = new ChunkedRead(this.#replies.pool, this.#replies.style, request, chunks);
    let result: MaybePromise<void>;
    try {
      result = reply.fill(this.#device);
    } catch (error) {
      reply.slab.release();
      this.#fail(request, error);
      return true;
    }
    if (result instanceof Promise) {
      const record = this.#record(request, length);
      record.chunked = reply;
      this.#hold(record, reply.slab);
      this.#await(record, result);
    } else {
      this.#replies.addSlab(reply.slab, reply.length);
    }
    return true;
  }

  async #readWhenKnown(record: InFlight, extents: Promise<Extent[]>): Promise<void> {
    const { request } = record;
    const { offset, length } = request;
    const known = await extents.catch((error: unknown) => {
      if (error instanceof AssertionError) throw error;
      return undefined;
    });
    const chunks = known && planChunks(known, offset, length);
    const whole = [{ offset, length, hole: false }];
    record.chunked = new ChunkedRead(this.#replies.pool, this.#replies.style, request, chunks ?? whole);
    this.#hold(record, record.chunked.slab);
    await record.chunked.fill(this.#device);
  }

  /** Makes all chunks before any is sent: a reply that has begun must not have to take anything back. */
  #tellStatus(
    from: RequestHeader,
    contextIds: readonly number[],
    chunks: Buffer[],
    first = 0,
  ): MaybePromise<void> {
    const { offset, length, flags } = from;
    const maxRuns = (flags & NBD_CMD_FLAG_REQ_ONE) === 0 ? MAX_STATUS_RUNS : 1;
    for (let index = first; index < contextIds.length; index += 1) {
      const id = contextIds[index]!;
      const told = this.#contexts[id]!.runs(offset, length, maxRuns);
      const last = index === contextIds.length - 1;
      if (told instanceof Promise) {
        // The reader fills its header again before this goes on.
        const request = new RequestHeader();
        request.copyFrom(from);
        return told.then((runs) => {
          chunks.push(this.#statusChunk(request, id, runs, maxRuns, last));
          return this.#tellStatus(request, contextIds, chunks, index + 1);
        });
      }
      chunks.push(this.#statusChunk(from, id, told, maxRuns, last));
    }
  }

  #statusChunk(
    request: RequestHeader,
    id: number,
    told: readonly StatusRun[],
    maxRuns: number,
    last: boolean,
  ): Buffer {
    const list = new StatusRuns(request.length, maxRuns);
    for (const run of told) if (!list.add(run.length, run.flags)) break;
    return encodeBlockStatus(this.#replies.style, request, id, list.runs, last);
  }

  #writeData(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (data.length === 0) return undefined;
    if (data.length > this.#maxRequestBytes) return writeInPieces(this.#device, offset, data, fua);
    return this.#device.write(offset, data, fua);
  }

  #readData(offset: number, target: Buffer): MaybePromise<void> {
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

  #fail(request: RequestHeader, thrown: unknown): void {
    const failure = judgeFailure(request, thrown);
    this.#replies.addError(request, failure.error, failure.message, failure.offset);
    this.#events.failed(failure.cause);
  }

  /** A record for a request that will be answered later. @param bytes of payload that it holds */
  #record(request: RequestHeader, bytes: number): InFlight {
    const record = this.#freeRecords.pop() ?? new InFlight(this);
    record.request.copyFrom(request);
    record.bytes = bytes;
    this.#requests += 1;
    this.#bytes += bytes;
    return record;
  }

  /** Counts the slab of a request that is in flight. */
  #hold(record: InFlight, slab: Slab): void {
    record.held = slab;
    this.#tally.add(slab);
  }

  #await(record: InFlight, result: Promise<void>): void {
    result.then(record.done, record.failed);
  }

  /** For records only: the device answered. */
  finish(record: InFlight, thrown: unknown): void {
    const { request, read, chunked, status } = record;
    this.#requests -= 1;
    this.#bytes -= record.bytes;
    if (record.held) this.#tally.remove(record.held);
    record.slab?.release();
    if (thrown !== undefined) {
      read?.slab.release();
      chunked?.slab.release();
      this.#fail(request, thrown);
    } else if (read) {
      this.#replies.attachRead(read, request);
    } else if (chunked) {
      this.#replies.addSlab(chunked.slab, chunked.length);
    } else if (status) {
      for (const chunk of status) this.#replies.addBytes(chunk);
    } else {
      this.#replies.addDone(request);
    }
    record.clear();
    this.#freeRecords.push(record);
    this.#events.completed();
  }
}

/** One request that the device answers later. Used again for the next one. */
class InFlight {
  readonly request = new RequestHeader();
  bytes = 0;
  /** Keeps a WRITE's data where it is. */
  slab: Slab | undefined;
  /** The slab that was counted for it. */
  held: Slab | undefined;
  /** What the answer will be made of: at most one of these. */
  read: DetachedRead | undefined;
  chunked: ChunkedRead | undefined;
  status: readonly Buffer[] | undefined;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;

  constructor(owner: Transmission) {
    this.done = () => owner.finish(this, undefined);
    this.failed = (error) => owner.finish(this, error ?? new Error('the device rejected without a reason'));
  }

  clear(): void {
    this.held = undefined;
    this.slab = undefined;
    this.read = undefined;
    this.chunked = undefined;
    this.status = undefined;
  }
}

function isFua(request: RequestHeader): boolean {
  return (request.flags & NBD_CMD_FLAG_FUA) !== 0;
}
