// Copies bytes to keep into memory that is used again and again, oldest given back first. A fresh buffer per copy
// costs more in page faults than the copying. Pinning the slabs that lent bytes lie in would save the copy, and
// let a log of small writes pin many times its own size.
import { type RetainedBytes, type Slab, SlabPool } from '../../base/buffer-pool.ts';
import { MiB } from '../../base/limits.ts';

const SLAB_BYTES = 1 * MiB;

class Copy implements RetainedBytes {
  readonly #slab: Slab;
  readonly #start: number;
  readonly #length: number;

  constructor(slab: Slab, start: number, length: number) {
    this.#slab = slab;
    this.#start = start;
    this.#length = length;
  }

  /** Made when asked for: most copies are never looked at. */
  get bytes(): Buffer {
    return this.#slab.bytes.subarray(this.#start, this.#start + this.#length);
  }

  release(): void {
    this.#slab.release();
  }
}

export class CopyArena {
  readonly #pool: SlabPool;
  #slab: Slab | undefined;
  #used = 0;

  /** @param maxFreeBytes memory that is kept for reuse while nothing is in it, bytes */
  constructor(maxFreeBytes: number) {
    this.#pool = new SlabPool({ maxFreeBytes });
  }

  /** Bytes of memory that copies hold. */
  get liveBytes(): number {
    return this.#pool.liveBytes;
  }

  copy(data: Buffer): RetainedBytes {
    if (data.length > SLAB_BYTES / 4) {
      const slab = this.#pool.acquire(data.length);
      data.copy(slab.bytes);
      return new Copy(slab, 0, data.length);
    }
    if (!this.#slab || this.#used + data.length > SLAB_BYTES) {
      this.close();
      this.#slab = this.#pool.acquire(SLAB_BYTES);
    }
    const start = this.#used;
    this.#used += data.length;
    data.copy(this.#slab.bytes, start);
    this.#slab.retain();
    return new Copy(this.#slab, start, data.length);
  }

  /** Gives back what no copy holds. */
  close(): void {
    this.#slab?.release();
    this.#slab = undefined;
    this.#used = 0;
  }
}
