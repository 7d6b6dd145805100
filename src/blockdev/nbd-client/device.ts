// An NBD export as a block device: turns calls into requests that the server takes. It keeps no data, and it relies on
// the device above for the order of overlapping changes in flight, as every NBD client must.
import { BlockError, toBlockError } from '../../base/errors.ts';
import { within } from '../../base/lifecycle.ts';
import { GiB, MAX_REQUEST_BYTES, MiB } from '../../base/limits.ts';
import type { Logger } from '../../base/log.ts';
import type { MaybePromise } from '../../base/maybe.ts';
import type { NbdExport } from '../../nbdwire/client-export.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../nbdwire/constants.ts';
import { allData, type BlockDevice, type DeviceLimits, type Extent } from '../block-device.ts';
import { queryExtents } from './block-status.ts';
import { chunksOf, inTurn } from './chunks.ts';
import type { NbdLink } from './link.ts';
import type { LinkState } from './link-states.ts';

/** Bytes of one WRITE_ZEROES without extended headers. Below 2^31, since servers have been wrong there; a multiple of every block size. */
const ZEROES_BYTES = 1 * GiB;

/** Bytes of one WRITE of zeroes, for servers without WRITE_ZEROES, and how many are in flight together. */
const ZERO_BUFFER_BYTES = 1 * MiB;
const ZERO_WRITES_IN_FLIGHT = 4;

export interface NbdDeviceOptions {
  readonly readOnly: boolean;
  /** How long close waits for requests in flight, and then for the last FLUSH, milliseconds. */
  readonly closeTimeoutMs: number;
}

export class NbdDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: DeviceLimits;
  readonly #link: NbdLink;
  readonly #logger: Logger;
  readonly #options: NbdDeviceOptions;
  readonly #maxPayloadBytes: number;
  readonly #canFlush: boolean;
  readonly #canFua: boolean;
  readonly #canZero: boolean;
  readonly #canCache: boolean;
  readonly #canTellExtents: boolean;
  /** Whether lengths may exceed 32 bits. */
  readonly #extended: boolean;
  /** A server may refuse effects that are larger than its payloads; found out when it does. */
  #zeroesBytes: number;
  #zeroBuffer: Buffer | undefined;
  /** Calls of several requests, that are under way. */
  readonly #compound = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;

  /** @param link open, to an export of `found` */
  constructor(link: NbdLink, found: NbdExport, logger: Logger, options: NbdDeviceOptions) {
    this.#link = link;
    this.#logger = logger;
    this.#options = options;
    this.sizeBytes = found.sizeBytes;
    this.limits = {
      readOnly: options.readOnly || (found.flags & NBD_FLAG_READ_ONLY) !== 0,
      minBlockBytes: found.minBlockBytes,
      preferredBlockBytes: found.preferredBlockBytes,
      maxRequestBytes: MAX_REQUEST_BYTES,
      // The server may know; it would have to be asked at each request, which no caller of this interface does.
      fastZero: 'never',
      cheapExtents: false,
    };
    this.#maxPayloadBytes = found.maxPayloadBytes;
    this.#canFlush = (found.flags & NBD_FLAG_SEND_FLUSH) !== 0;
    this.#canFua = (found.flags & NBD_FLAG_SEND_FUA) !== 0;
    this.#canZero = (found.flags & NBD_FLAG_SEND_WRITE_ZEROES) !== 0;
    this.#canCache = (found.flags & NBD_FLAG_SEND_CACHE) !== 0;
    this.#canTellExtents = found.allocationId !== undefined;
    this.#extended = found.style === 'extended';
    this.#zeroesBytes = this.#extended ? Number.MAX_SAFE_INTEGER : ZEROES_BYTES;
    if (!this.#canFlush && !this.limits.readOnly) {
      logger.warn(
        this.#canFua
          ? 'the NBD server has no FLUSH: every change is sent with FUA, which is slow'
          : 'the NBD server has neither FLUSH nor FUA: nothing can be made durable, a flush does nothing',
      );
    }
  }

  /** Where the link to the server is in its life, for status. */
  get linkState(): LinkState {
    return this.#link.state;
  }

  /** Connections that carry requests at this moment. */
  get connections(): number {
    return this.#link.connections;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    this.#checkOpen();
    if (target.length === 0) return;
    if (target.length <= this.#maxPayloadBytes) {
      return this.#link.submit(NBD_CMD.READ, 0, offset, target.length, target);
    }
    return this.#run(this.#transfer(NBD_CMD.READ, 0, offset, target));
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    this.#checkWritable();
    if (data.length === 0) return;
    const flags = this.#fuaFlag(fua);
    const flushAfter = fua && flags === 0 && this.#canFlush;
    if (data.length <= this.#maxPayloadBytes && !flushAfter) {
      return this.#link.submit(NBD_CMD.WRITE, flags, offset, data.length, data);
    }
    const written = this.#transfer(NBD_CMD.WRITE, flags, offset, data);
    return this.#run(flushAfter ? written.then(() => this.#link.flush(false)) : written);
  }

  flush(): MaybePromise<void> {
    this.#checkOpen();
    if (!this.#canFlush) return;
    return this.#link.flush(true);
  }

  /** NBD's own TRIM promises nothing about what is read afterwards, so that zeroes are asked for, which may be holes. */
  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.writeZeroes(offset, length, fua, true);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    this.#checkWritable();
    if (length === 0) return;
    const flags = this.#fuaFlag(fua) + (mayTrim ? 0 : NBD_CMD_FLAG_NO_HOLE);
    if (this.#canZero && length <= this.#maxPayloadBytes && (!fua || this.#canFua)) {
      return this.#link.submit(NBD_CMD.WRITE_ZEROES, flags, offset, length);
    }
    return this.#run(this.#zero(offset, length, fua, mayTrim));
  }

  cache(offset: number, length: number): MaybePromise<void> {
    this.#checkOpen();
    if (!this.#canCache || length === 0) return;
    return this.#run(this.#cache(offset, length));
  }

  /** Without block status everything is data. */
  extents(offset: number, length: number, maxExtents = Number.POSITIVE_INFINITY): MaybePromise<Extent[]> {
    this.#checkOpen();
    if (!this.#canTellExtents || length === 0) return allData(offset, length);
    const query = { offset, length, maxExtents, extended: this.#extended };
    return this.#run(queryExtents((at, size, status) => this.#link.blockStatus(at, size, status), query));
  }

  /** NBD has no word for it that servers know. @throws BlockError always */
  resize(_sizeBytes: number): never {
    throw new BlockError('ENOTSUP', 'an NBD image is resized where it is served; start anew after that');
  }

  /** @throws BlockError when what was answered could not be made durable; the device is closed all the same */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { closeTimeoutMs } = this.#options;
    const idle = await within(this.#settled(), closeTimeoutMs);
    let failure: BlockError | undefined;
    if (!idle) {
      failure = new BlockError('EIO', `the NBD server left requests unanswered for ${closeTimeoutMs} ms`);
    } else if (this.#link.owesFlush) {
      failure = await this.#lastFlush(closeTimeoutMs);
    }
    await this.#link.close();
    if (failure) throw failure;
  }

  async #lastFlush(timeoutMs: number): Promise<BlockError | undefined> {
    try {
      const flushed = this.#link.flush(true).then(() => true);
      if (await within(flushed, timeoutMs)) return undefined;
      return new BlockError('EIO', `the NBD server did not answer the last FLUSH within ${timeoutMs} ms`);
    } catch (error) {
      return toBlockError(error);
    }
  }

  async #settled(): Promise<true> {
    while (this.#compound.size > 0) await Promise.allSettled(this.#compound);
    await this.#link.drained();
    return true;
  }

  /** More than one request, or more than the server takes in one: all of them at once, in pieces. */
  async #transfer(command: number, flags: number, offset: number, buffer: Buffer): Promise<void> {
    const pieces: Promise<void>[] = [];
    for (const { start, end } of chunksOf(buffer.length, this.#maxPayloadBytes)) {
      pieces.push(
        this.#link.submit(command, flags, offset + start, end - start, buffer.subarray(start, end)),
      );
    }
    // The buffer is lent until the last piece is answered, also when an earlier one failed.
    const failed = (await Promise.allSettled(pieces)).find((piece) => piece.status === 'rejected');
    if (failed) throw failed.reason;
  }

  async #zero(offset: number, length: number, fua: boolean, mayTrim: boolean): Promise<void> {
    const flags = this.#fuaFlag(fua);
    if (this.#canZero) {
      await this.#sendZeroes(offset, length, flags + (mayTrim ? 0 : NBD_CMD_FLAG_NO_HOLE));
    } else {
      await this.#writeZeroBuffers(offset, length, flags);
    }
    if (fua && flags === 0 && this.#canFlush) await this.#link.flush(false);
  }

  async #sendZeroes(offset: number, length: number, flags: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const size = Math.min(this.#zeroesBytes, length - done);
      try {
        await this.#link.submit(NBD_CMD.WRITE_ZEROES, flags, offset + done, size);
        done += size;
      } catch (error) {
        if (!tooLarge(error) || size <= this.#maxPayloadBytes) throw error;
        this.#zeroesBytes = size > ZEROES_BYTES ? ZEROES_BYTES : this.#maxPayloadBytes;
      }
    }
  }

  #writeZeroBuffers(offset: number, length: number, flags: number): Promise<void> {
    this.#zeroBuffer ??= Buffer.alloc(Math.min(ZERO_BUFFER_BYTES, this.#maxPayloadBytes));
    const zeroes = this.#zeroBuffer;
    return inTurn(chunksOf(length, zeroes.length), ZERO_WRITES_IN_FLIGHT, ({ start, end }) =>
      this.#link.submit(NBD_CMD.WRITE, flags, offset + start, end - start, zeroes.subarray(0, end - start)),
    );
  }

  async #cache(offset: number, length: number): Promise<void> {
    for (const { start, end } of chunksOf(length, this.#maxPayloadBytes)) {
      try {
        await this.#link.submit(NBD_CMD.CACHE, 0, offset + start, end - start);
      } catch (error) {
        // Advice that wasn't taken is no failure; the rest would fare no better.
        this.#logger.debug({ err: error }, 'the NBD server did not cache');
        return;
      }
    }
  }

  /** Without FLUSH, FUA is the only way to durability: then every change has it. */
  #fuaFlag(fua: boolean): number {
    return this.#canFua && (fua || !this.#canFlush) ? NBD_CMD_FLAG_FUA : 0;
  }

  #run<T>(call: Promise<T>): Promise<T> {
    this.#compound.add(call);
    const over = (): void => {
      this.#compound.delete(call);
    };
    call.then(over, over);
    return call;
  }

  #checkOpen(): void {
    if (this.#closing) throw new BlockError('ESHUTDOWN', 'the NBD device is closed');
  }

  #checkWritable(): void {
    this.#checkOpen();
    if (this.limits.readOnly) throw new BlockError('EPERM', 'the NBD export is read-only');
  }
}

function tooLarge(error: unknown): boolean {
  return error instanceof BlockError && (error.code === 'EOVERFLOW' || error.code === 'EINVAL');
}
