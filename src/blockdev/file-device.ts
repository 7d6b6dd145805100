// A raw disk in a regular file or on a block device. What the page cache absorbs is done in place, what the disk
// has to do on the thread pool. The event loop must never wait for a disk, and no answer may be given for bytes
// that were not moved.
import fs from 'node:fs';
import { BlockError, errorMessage, toBlockError } from '../base/errors.ts';
import { KiB, MAX_REQUEST_BYTES, MiB } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { loadNativeCalls, type NativeCalls, type ZeroMode } from '../base/native-calls.ts';
import { allData, type BlockDevice, type DeviceLimits, type Extent } from './block-device.ts';
import { type DiskFile, openDiskFile } from './disk-file.ts';
import { diskSize } from './disk-size.ts';
import { probeFastZero } from './fast-zero-probe.ts';
import { FileExtents } from './file-extents.ts';
import {
  type FileIo,
  readFully,
  readFullyInPool,
  systemIo,
  writeFully,
  writeFullyInPool,
} from './file-io.ts';
import { FileZero } from './file-zero.ts';
import { GroupFlush } from './group-flush.ts';
import { InFlight } from './in-flight.ts';
import { OrderedDevice } from './ordered-device.ts';
import { SyncBudget } from './sync-budget.ts';

/** Larger reads and writes always go to the thread pool: copying alone would hold up other clients. */
const MAX_SYNC_BYTES = 1 * MiB;

export interface FileDeviceOptions {
  readonly path: string;
  readonly readOnly?: boolean;
  /** Create a missing image of this size, bytes, sparse. One that exists must have it. */
  readonly createSizeBytes?: number | undefined;
  readonly logger: Logger;
  /** System calls, for tests. `native: null` does without the native ones. */
  readonly io?: FileIo;
  readonly native?: NativeCalls | null;
  /** A clock in milliseconds for the in-place budget, for tests. */
  readonly now?: () => number;
}

/**
 * Opens a raw image. Overlapping changes take effect in the order of arrival.
 * @throws OperationError (missing, wrong size, in use, no permission) with the next step; UsageError
 */
export async function openFileDevice(options: FileDeviceOptions): Promise<OrderedDevice> {
  const native = options.native === null ? undefined : (options.native ?? loadNativeCalls());
  const readOnly = options.readOnly ?? false;
  const { path, createSizeBytes, logger } = options;
  const file = await openDiskFile({ path, readOnly, createSizeBytes, native, logger });
  return new OrderedDevice(new FileDevice(file, readOnly, native, options));
}

class FileDevice implements BlockDevice {
  #sizeBytes: number;
  readonly limits: DeviceLimits;
  readonly #path: string;
  readonly #fd: number;
  readonly #isBlockDevice: boolean;
  readonly #io: FileIo;
  readonly #native: NativeCalls | undefined;
  readonly #zero: FileZero;
  readonly #extents: FileExtents | undefined;
  readonly #flusher: GroupFlush;
  readonly #readBudget: SyncBudget;
  readonly #writeBudget: SyncBudget;
  readonly #inFlight = new InFlight();
  #closing: Promise<void> | undefined;

  constructor(
    file: DiskFile,
    readOnly: boolean,
    native: NativeCalls | undefined,
    options: FileDeviceOptions,
  ) {
    this.#path = options.path;
    this.#fd = file.fd;
    this.#io = options.io ?? systemIo(native);
    this.#native = native;
    this.#sizeBytes = file.sizeBytes;
    this.#isBlockDevice = file.isBlockDevice;
    this.limits = {
      readOnly,
      minBlockBytes: 1,
      preferredBlockBytes: 4 * KiB,
      maxRequestBytes: MAX_REQUEST_BYTES,
      fastZero: readOnly ? 'never' : probeFastZero(native, { ...file, path: options.path }),
      cheapExtents: native !== undefined,
    };
    this.#extents = native && new FileExtents({ fd: file.fd, native, now: options.now });
    this.#readBudget = new SyncBudget(options.now);
    this.#writeBudget = new SyncBudget(options.now);
    this.#zero = new FileZero({ fd: file.fd, io: this.#io, native, budget: new SyncBudget(options.now) });
    this.#flusher = new GroupFlush(
      () => this.#datasync(),
      (error) =>
        options.logger.error(
          { path: options.path, err: error },
          'flush failed; the image may have lost writes',
        ),
    );
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    this.#checkOpen();
    const budget = this.#readBudget;
    if (target.length > MAX_SYNC_BYTES || !budget.maySync()) {
      return this.#inPool('read', offset, this.#readInPool(offset, target));
    }
    const startedAt = budget.start();
    try {
      readFully(this.#io, this.#fd, target, offset);
    } catch (error) {
      throw this.#failure('read', offset, error);
    }
    budget.finish(startedAt, target.length);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    this.#checkOpen();
    const budget = this.#writeBudget;
    if (data.length > MAX_SYNC_BYTES || !budget.maySync()) {
      return this.#change('write', offset, this.#writeInPool(offset, data), fua);
    }
    const startedAt = budget.start();
    try {
      writeFully(this.#io, this.#fd, data, offset);
    } catch (error) {
      this.#flusher.markChanged();
      throw this.#failure('write', offset, error);
    }
    budget.finish(startedAt, data.length);
    this.#flusher.markChanged();
    return fua ? this.#flush() : undefined;
  }

  flush(): MaybePromise<void> {
    this.#checkOpen();
    return this.#flush();
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#wipe('trim', offset, length, fua, 'punch');
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#wipe('write zeroes', offset, length, fua, mayTrim ? 'punch' : 'zero');
  }

  cache(offset: number, length: number): MaybePromise<void> {
    this.#checkOpen();
    if (!this.#native || length === 0) return undefined;
    return this.#inFlight.track(this.#native.willNeed(this.#fd, offset, length).catch(() => undefined));
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    this.#checkOpen();
    if (!this.#extents) return allData(offset, length);
    const result = this.#extents.extents(offset, length, maxExtents);
    return result instanceof Promise ? this.#inFlight.track(result) : result;
  }

  /** A file is made longer, sparse; a block device has to have been made larger by its own tool. */
  resize(sizeBytes: number): MaybePromise<void> {
    this.#checkOpen();
    return this.#inFlight.track(this.#grow(sizeBytes));
  }

  close(): Promise<void> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  async #readInPool(offset: number, target: Buffer): Promise<void> {
    const startedAt = this.#readBudget.startInPool();
    await readFullyInPool(this.#io, this.#fd, target, offset);
    this.#readBudget.finishInPool(startedAt, target.length);
  }

  async #writeInPool(offset: number, data: Buffer): Promise<void> {
    const startedAt = this.#writeBudget.startInPool();
    await writeFullyInPool(this.#io, this.#fd, data, offset);
    this.#writeBudget.finishInPool(startedAt, data.length);
  }

  #wipe(what: string, offset: number, length: number, fua: boolean, mode: ZeroMode): MaybePromise<void> {
    this.#checkOpen();
    let result: MaybePromise<void>;
    try {
      result = this.#zero.zero(offset, length, mode);
    } catch (error) {
      this.#flusher.markChanged();
      throw this.#failure(what, offset, error);
    }
    if (result instanceof Promise) {
      const wiped = this.#extents ? result.finally(() => this.#extents?.forget()) : result;
      return this.#change(what, offset, wiped, fua);
    }
    this.#extents?.forget();
    this.#flusher.markChanged();
    return fua ? this.#flush() : undefined;
  }

  async #grow(sizeBytes: number): Promise<void> {
    if (this.#isBlockDevice) {
      const availableBytes = diskSize(this.#fd);
      if (availableBytes < sizeBytes) {
        throw new BlockError(
          'ENOSPC',
          `the block device ${this.#path} has ${availableBytes} bytes; make it larger first (such as lvextend)`,
        );
      }
    } else {
      try {
        fs.ftruncateSync(this.#fd, sizeBytes);
      } catch (error) {
        throw this.#failure('resize', sizeBytes, error);
      }
      this.#flusher.markChanged();
      await this.#flusher.flush();
    }
    this.#sizeBytes = sizeBytes;
  }

  #flush(): MaybePromise<void> {
    const running = this.#flusher.flush();
    return running && this.#inFlight.track(running);
  }

  /** A change on the thread pool: it counts as made when it ends, whether well or halfway. */
  async #change(what: string, offset: number, work: Promise<void>, fua: boolean): Promise<void> {
    const ended = work.finally(() => this.#flusher.markChanged());
    await this.#inPool(what, offset, fua ? ended.then(() => this.#flusher.flush()) : ended);
  }

  #inPool(what: string, offset: number, work: Promise<void>): Promise<void> {
    return this.#inFlight.track(
      work.catch((error: unknown) => {
        throw this.#failure(what, offset, error);
      }),
    );
  }

  #datasync(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#io.datasync(this.#fd, (error) => (error ? reject(error) : resolve()));
    });
  }

  #failure(what: string, offset: number, error: unknown): BlockError {
    const { code } = toBlockError(error);
    return new BlockError(code, `${what} at ${offset} of ${this.#path}: ${errorMessage(error)}`, {
      cause: error,
    });
  }

  #checkOpen(): void {
    if (this.#closing) throw new BlockError('ESHUTDOWN', `${this.#path} is closed`);
  }

  /** Lets go of the descriptor, and with it the lock, even when the last flush fails. */
  async #finish(): Promise<void> {
    await this.#inFlight.idle();
    try {
      if (!this.limits.readOnly) await this.#flusher.flush();
    } finally {
      fs.closeSync(this.#fd);
    }
  }
}
