// Stands above every link of a chain, so that neither devices nor filters need checks of their own. It must add
// nothing to a call that is answered at once: no promise, no closure.
import { AssertionError } from '../base/assert.ts';
import { BlockError, type BlockErrorCode, toBlockError } from '../base/errors.ts';
import { type Deferred, deferred } from '../base/lifecycle.ts';
import { MAX_DISK_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';
import { HeldCalls } from './held-calls.ts';

export interface GuardOptions {
  /** The link that is guarded, as errors in the log name it. */
  readonly name: string;
  readonly logger: Logger;
  /** The guard one link further down; closed even when the guarded link doesn't pass close on. */
  readonly inner?: Guard;
}

/**
 * Enforces what {@link DeviceLimits} promises and what BlockDevice leaves to its callers:
 * - EPERM for a change of a read-only disk, before anything else about it is judged;
 * - ENOSPC for a write or writeZeroes past the end, EINVAL for any other range outside the disk;
 * - EINVAL for a range off the block grid or a read or write that is too large;
 * - ESHUTDOWN once close was called; what is in flight is waited for, then the link is closed;
 * - whatever else the link throws becomes a BlockError and is logged. AssertionErrors pass untouched: they are
 *   never caught to continue.
 * A call of length 0 that passes these checks succeeds without reaching the link.
 *
 * Between hold() and release() calls wait above the guard, unchecked. While nothing is held that costs a comparison.
 */
export class Guard implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #name: string;
  readonly #logger: Logger;
  readonly #inner: Guard | undefined;
  /** Set while calls are held. */
  #held: HeldCalls | undefined;
  #inFlight = 0;
  #idle: Deferred<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(below: BlockDevice, options: GuardOptions) {
    this.#below = below;
    this.#name = options.name;
    this.#logger = options.logger;
    this.#inner = options.inner;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#below.limits;
  }

  /** Asynchronous calls that have not been answered yet. */
  get inFlight(): number {
    return this.#inFlight;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.#held) return this.#held.read(offset, target);
    this.#check('read', offset, target.length, 'EINVAL', true);
    if (target.length === 0) return;
    let result: MaybePromise<void>;
    try {
      result = this.#below.read(offset, target);
    } catch (error) {
      throw this.#failure('read', error);
    }
    if (result instanceof Promise) return this.#track('read', result);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (this.#held) return this.#held.write(offset, data, fua);
    this.#checkWritable('write');
    this.#check('write', offset, data.length, 'ENOSPC', true);
    if (data.length === 0) return;
    let result: MaybePromise<void>;
    try {
      result = this.#below.write(offset, data, fua);
    } catch (error) {
      throw this.#failure('write', error);
    }
    if (result instanceof Promise) return this.#track('write', result);
  }

  flush(): MaybePromise<void> {
    if (this.#held) return this.#held.flush();
    this.#checkOpen();
    return this.#flushBelow();
  }

  #flushBelow(): MaybePromise<void> {
    let result: MaybePromise<void>;
    try {
      result = this.#below.flush();
    } catch (error) {
      throw this.#failure('flush', error);
    }
    if (result instanceof Promise) return this.#track('flush', result);
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    if (this.#held) return this.#held.trim(offset, length, fua);
    this.#checkWritable('trim');
    this.#check('trim', offset, length, 'EINVAL', false);
    if (length === 0) return;
    let result: MaybePromise<void>;
    try {
      result = this.#below.trim(offset, length, fua);
    } catch (error) {
      throw this.#failure('trim', error);
    }
    if (result instanceof Promise) return this.#track('trim', result);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    if (this.#held) return this.#held.writeZeroes(offset, length, fua, mayTrim);
    this.#checkWritable('writeZeroes');
    this.#check('writeZeroes', offset, length, 'ENOSPC', false);
    if (length === 0) return;
    let result: MaybePromise<void>;
    try {
      result = this.#below.writeZeroes(offset, length, fua, mayTrim);
    } catch (error) {
      throw this.#failure('writeZeroes', error);
    }
    if (result instanceof Promise) return this.#track('writeZeroes', result);
  }

  cache(offset: number, length: number): MaybePromise<void> {
    if (this.#held) return this.#held.cache(offset, length);
    this.#check('cache', offset, length, 'EINVAL', false);
    if (length === 0) return;
    let result: MaybePromise<void>;
    try {
      result = this.#below.cache(offset, length);
    } catch (error) {
      throw this.#failure('cache', error);
    }
    if (result instanceof Promise) return this.#track('cache', result);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    if (this.#held) return this.#held.extents(offset, length, maxExtents);
    this.#check('extents', offset, length, 'EINVAL', false);
    if (length === 0) return [];
    let result: MaybePromise<Extent[]>;
    try {
      result = this.#below.extents(offset, length, maxExtents);
      if (!(result instanceof Promise)) return coveringExtents(result, offset, length);
    } catch (error) {
      throw this.#failure('extents', error);
    }
    return this.#track(
      'extents',
      result.then((list) => coveringExtents(list, offset, length)),
    );
  }

  resize(sizeBytes: number): MaybePromise<void> {
    if (this.#held) return this.#held.resize(sizeBytes);
    this.#checkWritable('resize');
    checkGrowth(sizeBytes, this.#below);
    let result: MaybePromise<void>;
    try {
      result = this.#below.resize(sizeBytes);
    } catch (error) {
      throw this.#failure('resize', error);
    }
    if (result instanceof Promise) return this.#track('resize', result);
  }

  close(): Promise<void> {
    this.release();
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The guard of the link of this name, here or further down. */
  find(name: string): Guard | undefined {
    return this.#name === name ? this : this.#inner?.find(name);
  }

  /** From now on calls wait, in order of arrival; those in flight go on. @throws BlockError ESHUTDOWN */
  hold(): void {
    this.#checkOpen();
    this.#held ??= new HeldCalls(this);
  }

  /** Lets what was held go, before any call that comes later. */
  release(): void {
    const held = this.#held;
    this.#held = undefined;
    held?.release();
  }

  /** Calls that are held. */
  get heldCalls(): number {
    return this.#held?.count ?? 0;
  }

  /** Resolves when nothing is in flight. Held calls are not. */
  drained(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    this.#idle ??= deferred();
    return this.#idle.promise;
  }

  /** A flush that isn't held. */
  flushHeld(): MaybePromise<void> {
    this.#checkOpen();
    return this.#flushBelow();
  }

  #checkOpen(): void {
    if (this.#closing) throw new BlockError('ESHUTDOWN', 'the disk is being closed');
  }

  #checkWritable(operation: string): void {
    this.#checkOpen();
    if (this.#below.limits.readOnly) {
      throw new BlockError('EPERM', `${operation} is not permitted: the disk is read-only`);
    }
  }

  #check(
    operation: string,
    offset: number,
    length: number,
    pastEnd: BlockErrorCode,
    carriesData: boolean,
  ): void {
    this.#checkOpen();
    const sizeBytes = this.#below.sizeBytes;
    const { minBlockBytes, maxRequestBytes } = this.#below.limits;
    if (!(offset >= 0 && length >= 0 && offset <= sizeBytes - length)) {
      throw outside(operation, offset, length, sizeBytes, pastEnd);
    }
    if (!isMultiple(offset, minBlockBytes) || !isMultiple(length, minBlockBytes)) {
      throw new BlockError(
        'EINVAL',
        `${operation} of ${length} bytes at ${offset}: offset and length must be multiples of ${minBlockBytes} bytes`,
      );
    }
    if (carriesData && length > maxRequestBytes) {
      throw new BlockError(
        'EINVAL',
        `${operation} of ${length} bytes at ${offset}: at most ${maxRequestBytes} bytes are allowed at once`,
      );
    }
  }

  #track<T>(operation: string, pending: Promise<T>): Promise<T> {
    this.#inFlight += 1;
    return pending.then(
      (value) => {
        this.#leave();
        return value;
      },
      (error: unknown) => {
        this.#leave();
        throw this.#failure(operation, error);
      },
    );
  }

  #leave(): void {
    this.#inFlight -= 1;
    if (this.#inFlight > 0) return;
    this.#idle?.resolve();
    this.#idle = undefined;
  }

  #failure(operation: string, error: unknown): Error {
    if (error instanceof BlockError || error instanceof AssertionError) return error;
    const failure = toBlockError(error);
    this.#logger.error(
      { err: error, link: this.#name, operation, code: failure.code },
      `${operation} failed in ${this.#name}: ${failure.message}`,
    );
    return failure;
  }

  async #close(): Promise<void> {
    await this.drained();
    let first: Error | undefined;
    for (const device of [this.#below, this.#inner]) {
      try {
        await device?.close();
      } catch (error) {
        const failure = this.#failure('close', error);
        if (first && failure !== first)
          this.#logger.error({ err: failure }, 'closing failed further down too');
        first ??= failure;
      }
    }
    if (first) throw first;
  }
}

/** Exact for every offset of a disk, unlike `%` also cheap where a value is above 2^31. `unit` is a power of two. */
function isMultiple(value: number, unit: number): boolean {
  return Math.floor(value / unit) * unit === value;
}

function checkGrowth(sizeBytes: number, { sizeBytes: before, limits }: BlockDevice): void {
  const unit = Math.max(SECTOR_BYTES, limits.minBlockBytes);
  if (!isMultiple(sizeBytes, unit) || !(sizeBytes > before && sizeBytes <= MAX_DISK_BYTES)) {
    throw new BlockError(
      'EINVAL',
      `a disk of ${before} bytes cannot be made one of ${sizeBytes}: ` +
        `it only grows, by whole ${unit}-byte blocks, to at most ${MAX_DISK_BYTES} bytes`,
    );
  }
}

function outside(
  operation: string,
  offset: number,
  length: number,
  sizeBytes: number,
  pastEnd: BlockErrorCode,
): BlockError {
  const what = `${operation} of ${length} bytes at ${offset}`;
  if (!(Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length >= 0)) {
    return new BlockError('EINVAL', `${what}: offset and length must be whole numbers from 0 up`);
  }
  return new BlockError(pastEnd, `${what} goes past the end of the disk, which has ${sizeBytes} bytes`);
}

/** What extents() promises is what block status tells clients: a gap there makes them skip data. */
function coveringExtents(list: Extent[], offset: number, length: number): Extent[] {
  let at = offset;
  for (const extent of list) {
    if (extent.offset !== at || !(extent.length > 0)) break;
    at += extent.length;
  }
  if (at !== offset + length) {
    throw new Error(`the extents of ${length} bytes at ${offset} don't cover them: they stop at ${at}`);
  }
  return list;
}
