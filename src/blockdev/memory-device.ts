// A sparse disk in memory, for tests, demos and scratch volumes. Every call is answered at once; nothing here
// may return a promise but close().
import { BlockError } from '../base/errors.ts';
import { KiB, MAX_DISK_BYTES, MAX_REQUEST_BYTES } from '../base/limits.ts';
import type { BlockDevice, DeviceLimits, Extent } from './block-device.ts';
import { ExtentList, MAX_EXTENTS } from './extent-list.ts';

const DEFAULT_PAGE_BYTES = 64 * KiB;

/** Pages that one disk may hold, reserved ones included; a JavaScript map ends at 16 Mi entries. 512 GiB of data. */
const MAX_PAGES = 8 * 1024 * 1024;

/** Stands for a page that is allocated but holds only zeroes. Never written to, nor read from beyond its first bytes. */
const ZERO_PAGE = Buffer.alloc(DEFAULT_PAGE_BYTES);

export interface MemoryDeviceOptions {
  /** Bytes; a positive whole number. */
  readonly sizeBytes: number;
  readonly readOnly?: boolean;
  /** The alignment to ask of callers, bytes; a power of two. Default 1. */
  readonly minBlockBytes?: number;
  /** The unit in which memory is taken, bytes; a power of two. Default 64 KiB. */
  readonly pageBytes?: number;
}

export class MemoryDevice implements BlockDevice {
  #sizeBytes: number;
  readonly limits: DeviceLimits;
  readonly #pageBytes: number;
  readonly #pages = new Map<number, Buffer>();
  #closed = false;

  constructor(options: MemoryDeviceOptions) {
    const { sizeBytes } = options;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes > MAX_DISK_BYTES) {
      throw new BlockError('EINVAL', `a memory disk of ${sizeBytes} bytes is not possible`);
    }
    this.#sizeBytes = sizeBytes;
    this.#pageBytes = options.pageBytes ?? DEFAULT_PAGE_BYTES;
    this.limits = {
      readOnly: options.readOnly ?? false,
      minBlockBytes: options.minBlockBytes ?? 1,
      preferredBlockBytes: 4 * KiB,
      maxRequestBytes: MAX_REQUEST_BYTES,
      fastZero: 'always',
      cheapExtents: true,
    };
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Bytes of memory that hold data. */
  get allocatedBytes(): number {
    let pages = 0;
    for (const page of this.#pages.values()) if (page !== ZERO_PAGE) pages += 1;
    return pages * this.#pageBytes;
  }

  read(offset: number, target: Buffer): void {
    this.#checkOpen();
    for (let done = 0; done < target.length; ) {
      const index = Math.floor((offset + done) / this.#pageBytes);
      const within = offset + done - index * this.#pageBytes;
      const length = Math.min(this.#pageBytes - within, target.length - done);
      const page = this.#pages.get(index);
      if (page) page.copy(target, done, within, within + length);
      else target.fill(0, done, done + length);
      done += length;
    }
  }

  write(offset: number, data: Buffer, _fua: boolean): void {
    this.#checkOpen();
    for (let done = 0; done < data.length; ) {
      const index = Math.floor((offset + done) / this.#pageBytes);
      const within = offset + done - index * this.#pageBytes;
      const length = Math.min(this.#pageBytes - within, data.length - done);
      data.copy(this.#writablePage(index), within, done, done + length);
      done += length;
    }
  }

  flush(): void {
    this.#checkOpen();
  }

  trim(offset: number, length: number, _fua: boolean): void {
    this.#checkOpen();
    const end = offset + length;
    for (const index of this.#presentPages(offset, length)) {
      const start = index * this.#pageBytes;
      const wholePage = offset <= start && end >= Math.min(start + this.#pageBytes, this.sizeBytes);
      if (wholePage) this.#pages.delete(index);
      else this.#zeroWithin(index, offset, end);
    }
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): void {
    if (mayTrim) {
      this.trim(offset, length, fua);
      return;
    }
    this.#checkOpen();
    const end = offset + length;
    const last = Math.floor((end - 1) / this.#pageBytes);
    const first = Math.floor(offset / this.#pageBytes);
    if (last - first >= MAX_PAGES) throw tooMuch();
    for (let index = first; index <= last; index += 1) {
      if (this.#pages.has(index)) this.#zeroWithin(index, offset, end);
      else this.#setPage(index, ZERO_PAGE);
    }
  }

  cache(_offset: number, _length: number): void {
    this.#checkOpen();
  }

  extents(offset: number, length: number, maxExtents = MAX_EXTENTS): Extent[] {
    this.#checkOpen();
    const list = new ExtentList(offset, length);
    const most = Math.min(maxExtents, MAX_EXTENTS);
    for (const index of this.#presentPages(offset, length)) {
      list.addUntil(index * this.#pageBytes, true, true);
      if (list.count > most) return list.giveUp();
      list.addUntil((index + 1) * this.#pageBytes, false, this.#pages.get(index) === ZERO_PAGE);
    }
    list.addUntil(offset + length, true, true);
    return list.finish();
  }

  resize(sizeBytes: number): void {
    this.#checkOpen();
    this.#sizeBytes = sizeBytes;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#pages.clear();
  }

  /** Zeroes the part of one present page that lies in [offset, end). */
  #zeroWithin(index: number, offset: number, end: number): void {
    if (this.#pages.get(index) === ZERO_PAGE) return;
    const start = index * this.#pageBytes;
    const from = Math.max(0, offset - start);
    const to = Math.min(this.#pageBytes, end - start);
    if (from === 0 && to === this.#pageBytes) this.#pages.set(index, ZERO_PAGE);
    else this.#writablePage(index).fill(0, from, to);
  }

  #writablePage(index: number): Buffer {
    const page = this.#pages.get(index);
    if (page && page !== ZERO_PAGE) return page;
    const fresh = Buffer.alloc(this.#pageBytes);
    this.#setPage(index, fresh);
    return fresh;
  }

  #setPage(index: number, page: Buffer): void {
    if (this.#pages.size >= MAX_PAGES && !this.#pages.has(index)) throw tooMuch();
    this.#pages.set(index, page);
  }

  /** Indices of pages in the range that exist, ascending. Cheap for a huge range of an almost empty disk. */
  #presentPages(offset: number, length: number): number[] {
    if (length === 0) return [];
    const first = Math.floor(offset / this.#pageBytes);
    const last = Math.floor((offset + length - 1) / this.#pageBytes);
    const found: number[] = [];
    if (last - first < this.#pages.size) {
      for (let index = first; index <= last; index += 1) if (this.#pages.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#pages.keys()) if (index >= first && index <= last) found.push(index);
    return found.sort((a, b) => a - b);
  }

  #checkOpen(): void {
    if (this.#closed) throw new BlockError('ESHUTDOWN', 'the memory disk is closed');
  }
}

function tooMuch(): BlockError {
  return new BlockError('ENOSPC', `a memory disk holds at most ${MAX_PAGES} pages of data`);
}
