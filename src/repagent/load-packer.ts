// Packs frames that wait to be sent, on the thread pool: a few at a time, so that the disks of guests have the pool too.
// Loads may be done in any order; whoever sends them keeps theirs. A load that isn't worth it stays as it is, uncopied.
import { sharedPool } from '../base/buffer-pool.ts';
import { MAX_PACKED_CONTENT_BYTES, type PackCodec } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import { type Compress, type Compression, compressOnPool, looksRandom } from './compression.ts';
import { type PackSlots, sharedPackSlots } from './pack-slots.ts';

/** Below it the fixed part of the packed frame eats what is won, bytes. */
const MIN_BYTES = 1024;

/** A packed load must be smaller by a sixteenth: unpacking costs the hub. */
const WORTH_IT = 15 / 16;

/** Frames that leave together. */
export class Load {
  readonly parts: readonly Buffer[];
  readonly bytes: number;
  /** They have left, or never will: their bytes may be reused. */
  readonly over: () => void;
  /** new: nobody has looked whether to pack it. */
  state: 'new' | 'plain' | 'packing' | 'packed' = 'new';
  /** What leaves instead of the parts once it's packed. */
  packed: readonly Buffer[] | undefined = undefined;
  /** Of what leaves. */
  sentBytes: number;

  constructor(parts: readonly Buffer[], over: () => void) {
    let bytes = 0;
    for (const part of parts) bytes += part.length;
    this.parts = parts;
    this.bytes = bytes;
    this.sentBytes = bytes;
    this.over = over;
  }
}

/** For tests. */
export interface PackerTuning {
  readonly slots?: PackSlots | undefined;
  readonly compress?: Compress | undefined;
}

export interface LoadPackerOptions extends Compression, PackerTuning {
  /** A load has become ready. */
  readonly onReady: () => void;
}

interface Job {
  readonly load: Load;
  readonly quality: number;
}

export class LoadPacker {
  readonly always: boolean;
  readonly #codec: PackCodec;
  readonly #compress: Compress;
  readonly #slots: PackSlots;
  readonly #onReady: () => void;
  #waiting: Job[] = [];

  constructor({ always, codec, compress, slots, onReady }: LoadPackerOptions) {
    this.always = always;
    this.#codec = codec;
    this.#compress = compress ?? compressOnPool;
    this.#slots = slots ?? sharedPackSlots;
    this.#onReady = onReady;
  }

  /** Takes a new load, unless it's not worth it: see `begin`. Its parts must stay as they are until it's over. */
  add(load: Load, quality: number): void {
    const { parts, bytes } = load;
    load.state = 'plain';
    if (bytes < MIN_BYTES || bytes > MAX_PACKED_CONTENT_BYTES || looksRandom(parts, bytes)) return;
    load.state = 'packing';
    this.#waiting.push({ load, quality });
  }

  /** Packs what was taken, as soon as there is a slot for it. */
  readonly begin = (): void => {
    while (this.#waiting.length > 0 && this.#slots.take(this.begin)) {
      // Where nobody waits for it, one that leaves soon would only be packed for nothing: the last has most time.
      this.#pack(this.always ? this.#waiting.shift()! : this.#waiting.pop()!);
    }
  };

  /** The load leaves as it is. */
  giveUp(load: Load): void {
    load.state = 'plain';
    this.#waiting = this.#waiting.filter((job) => job.load !== load);
  }

  /** The connection is gone: what is under way ends for nobody. */
  stop(): void {
    for (const { load } of this.#waiting.splice(0)) load.state = 'plain';
    this.#slots.forget(this.begin);
  }

  #pack({ load, quality }: Job): void {
    // A copy: the load may be given up and its bytes be reused while the pool still reads.
    const slab = sharedPool.acquire(load.bytes);
    let at = 0;
    for (const part of load.parts) at += part.copy(slab.bytes, at);
    const done = (packed: Buffer | undefined): void => {
      slab.release();
      this.#finished(load, packed);
      this.#slots.release();
      this.begin();
    };
    try {
      this.#compress(slab.bytes.subarray(0, load.bytes), quality, (error, packed) => {
        done(error ? undefined : packed);
      });
    } catch {
      // No memory for it.
      done(undefined);
    }
  }

  #finished(load: Load, packed: Buffer | undefined): void {
    if (load.state !== 'packing') return;
    load.state = 'plain';
    const head = packed && encode.encodePacked(this.#codec, load.bytes, packed.length);
    if (head && head.length + packed.length <= load.bytes * WORTH_IT) {
      // Copied, because it lies in memory for the largest result, and may have to wait for long.
      load.packed = [head, Buffer.from(packed)];
      load.sentBytes = head.length + packed.length;
      load.state = 'packed';
    }
    this.#onReady();
  }
}
