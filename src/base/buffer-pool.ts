// Counted receive buffers. A buffer handed down a chain is lent for the length of the call; whoever needs the
// bytes longer calls retainBytes, which pins the slab they lie in instead of copying them.
// A slab must never go back to the pool while anyone may still read it.
import { assert } from './assert.ts';
import { KiB, MiB } from './limits.ts';

const owners = new WeakMap<ArrayBufferLike, Slab>();

/** Below this many bytes a copy is cheaper than keeping a whole slab pinned. */
export const RETAIN_MIN_BYTES = 2 * KiB;

/** Bytes that stay valid until `release` is called, once. */
export interface RetainedBytes {
  readonly bytes: Buffer;
  release(): void;
}

/** One pooled buffer with a reference count. Born with one reference, the acquirer's. */
export class Slab {
  readonly bytes: Buffer;
  /** How often its acquirer counts it as in use; the acquirer's alone, and 0 when it comes back. */
  uses = 0;
  /** For the pool only: how many trims it had seen when this slab came back, and whether its memory is given up since. */
  freedAtTrim = 0;
  discarded = false;
  readonly #pool: SlabPool;
  #references = 1;

  constructor(pool: SlabPool, sizeBytes: number) {
    this.#pool = pool;
    this.bytes = Buffer.allocUnsafeSlow(sizeBytes);
    owners.set(this.bytes.buffer, this);
  }

  get references(): number {
    return this.#references;
  }

  get pool(): SlabPool {
    return this.#pool;
  }

  /** Takes one more reference. */
  retain(): void {
    assert(this.#references > 0, 'retain of a slab that was already given back');
    this.#references += 1;
  }

  /** Gives one reference back; the last one returns the slab to its pool. */
  release(): void {
    assert(this.#references > 0, 'release of a slab that was already given back');
    this.#references -= 1;
    if (this.#references === 0) this.#pool.takeBack(this);
  }

  /** For the pool only: makes a free slab live again. */
  revive(): void {
    assert(this.#references === 0, 'revive of a slab in use');
    this.#references = 1;
    this.discarded = false;
  }
}

export interface SlabPoolOptions {
  /** Bytes of free slabs kept for reuse. */
  readonly maxFreeBytes?: number;
  /** Bytes of live slabs above which retainBytes copies instead of pinning. */
  readonly maxPinnedBytes?: number;
  /** Overwrite slabs as they come back, so that a use after release shows in a test. */
  readonly poison?: boolean;
}

/** Hands out slabs in power-of-two sizes and reuses them. */
export class SlabPool {
  readonly #free = new Map<number, Slab[]>();
  readonly #maxFreeBytes: number;
  readonly #maxPinnedBytes: number;
  readonly #poison: boolean;
  #freeBytes = 0;
  /** Of the free ones, those whose memory the system may have back. */
  #discardedBytes = 0;
  #liveBytes = 0;
  #trims = 0;
  #onDrop: (bytes: Buffer) => void = () => {};

  constructor(options: SlabPoolOptions = {}) {
    this.#maxFreeBytes = options.maxFreeBytes ?? 128 * MiB;
    this.#maxPinnedBytes = options.maxPinnedBytes ?? 256 * MiB;
    this.#poison = options.poison ?? process.env.REPAGENT_POISON === '1';
  }

  /** Bytes of slabs that someone holds. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  /** Bytes of slabs waiting for reuse. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Whether pinning more slabs is still within the pool's budget. */
  get mayPin(): boolean {
    return this.#liveBytes <= this.#maxPinnedBytes;
  }

  /** A slab of at least `minBytes`; the caller owns one reference. The caller has checked `minBytes` against a limit. */
  acquire(minBytes: number): Slab {
    const sizeBytes = sizeClass(minBytes);
    const free = this.#free.get(sizeBytes)?.pop();
    this.#liveBytes += sizeBytes;
    if (!free) return new Slab(this, sizeBytes);
    this.#freeBytes -= sizeBytes;
    if (free.discarded) this.#discardedBytes -= sizeBytes;
    free.revive();
    return free;
  }

  /** For slabs only: the last reference is gone. */
  takeBack(slab: Slab): void {
    const sizeBytes = slab.bytes.length;
    this.#liveBytes -= sizeBytes;
    if (this.#poison) slab.bytes.fill(0xdd);
    if (this.#freeBytes + sizeBytes > this.#maxFreeBytes) {
      this.#onDrop(slab.bytes);
      return;
    }
    this.#freeBytes += sizeBytes;
    slab.freedAtTrim = this.#trims;
    const list = this.#free.get(sizeBytes);
    if (list) list.push(slab);
    else this.#free.set(sizeBytes, [slab]);
  }

  /** @param onDrop gets the bytes of each slab that is not kept for reuse: nobody needs what is in them */
  whenDropped(onDrop: (bytes: Buffer) => void): void {
    this.#onDrop = onDrop;
  }

  /** Bytes of free slabs that still have memory of their own. */
  get idleBytes(): number {
    return this.#freeBytes - this.#discardedBytes;
  }

  /**
   * Gives up the memory, not the place, of slabs that nobody needed for some time; to be called at even intervals.
   * @param discard gives a slab's memory back to the system: it reads as anything then
   * @param options.afterTrims how many trims a slab is left alone for
   * @param options.keepBytes memory of free slabs that stays
   * @param options.atOnceBytes no more than this, and one slab, is given up by one trim
   */
  trim(
    discard: (bytes: Buffer) => void,
    options: { readonly afterTrims: number; readonly keepBytes: number; readonly atOnceBytes: number },
  ): void {
    this.#trims += 1;
    let left = options.atOnceBytes;
    for (const [sizeBytes, list] of this.#free) {
      // A list is a stack: those that came back first lie first.
      for (const slab of list) {
        if (left <= 0 || this.idleBytes <= options.keepBytes) return;
        if (slab.freedAtTrim + options.afterTrims > this.#trims) break;
        if (slab.discarded) continue;
        discard(slab.bytes);
        slab.discarded = true;
        this.#discardedBytes += sizeBytes;
        left -= sizeBytes;
      }
    }
  }
}

/** The pool that sockets of this process receive into. */
export const sharedPool = new SlabPool();

/**
 * Keeps `data` beyond the call it was lent for: pins its slab when it has one and is worth it, else copies.
 * @returns the same bytes at an address that stays valid until `release`
 */
export function retainBytes(data: Buffer): RetainedBytes {
  const slab = pinSlab(data);
  return slab ? new PinnedBytes(data, slab) : new CopiedBytes(data);
}

/**
 * What {@link retainBytes} decides, for a caller that keeps many: without an object per call.
 * @returns the slab that `data` lies in, with one more reference that the caller gives back by `release`; undefined
 *   when `data` is to be copied
 */
export function pinSlab(data: Buffer): Slab | undefined {
  const slab = data.length >= RETAIN_MIN_BYTES ? owners.get(data.buffer) : undefined;
  if (!slab?.pool.mayPin) return undefined;
  slab.retain();
  return slab;
}

class PinnedBytes implements RetainedBytes {
  readonly bytes: Buffer;
  #slab: Slab | undefined;

  constructor(bytes: Buffer, slab: Slab) {
    this.bytes = bytes;
    this.#slab = slab;
  }

  release(): void {
    const slab = this.#slab;
    assert(slab, 'retained bytes were released twice');
    this.#slab = undefined;
    slab.release();
  }
}

class CopiedBytes implements RetainedBytes {
  readonly bytes: Buffer;

  constructor(data: Buffer) {
    this.bytes = Buffer.from(data);
  }

  release(): void {}
}

/**
 * Keeps `data` where it lies until the returned function is called, once: for whoever has lent it on to something that
 * holds its address. Unlike {@link retainBytes} it never copies, whatever the budget.
 * @returns undefined when the bytes are no slab's: they stay valid by themselves
 */
export function pinBytes(data: Buffer): (() => void) | undefined {
  const slab = owners.get(data.buffer);
  if (!slab) return undefined;
  slab.retain();
  return () => slab.release();
}

function sizeClass(minBytes: number): number {
  let size = 64 * KiB;
  while (size < minBytes) size *= 2;
  return size;
}
