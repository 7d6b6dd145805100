// The stream's entries that the hub's connection has not taken yet, in order, counted in bytes. An entry keeps the
// bytes of its change alive; they must be given back exactly once: when the kernel took them, or when it's dropped.
import { assert } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import { pinSlab, type Slab } from '../base/buffer-pool.ts';
import type { DirtyWhy } from '../repwire/encode.ts';

/** What an entry costs beside its payload, bytes: about what it takes in memory and on the wire. */
export const ENTRY_OVERHEAD_BYTES = 64;

export type EntryKind = 'write' | 'failed' | 'writeZeroes' | 'trim' | 'flush' | 'dirty' | 'frame';

/** Whose entry it is. */
export interface EntryOwner {
  /** The volume's id on the present connection. */
  readonly wireId: bigint;
  readonly sizeBytes: number;
  /** Bytes of this volume's entries that are not released. */
  queuedBytes: number;
}

/** One entry of the stream; also a link of the queue's list. Serves as the stamp of its own frame. */
export class MirrorEntry {
  readonly kind: EntryKind;
  readonly owner: EntryOwner;
  readonly offset: number;
  readonly length: number;
  readonly sequence: number;
  readonly timeUs: number;
  /** write: the data, valid until the release. frame: a whole frame, sent as it is. */
  bytes: Buffer | undefined = undefined;
  /** dirty: the chunks to name; never changes. */
  bits: Bitmap | undefined = undefined;
  /** dirty: bytes of disk that one of the bits stands for. */
  chunkBytes = 0;
  /** dirty: what the hub is told of it. */
  why: DirtyWhy | undefined = undefined;
  /** How far a lazily expanded entry has been sent: a chunk of `bits`, or bytes of zeroes. */
  cursor = 0;
  /** Told when the entry is released. */
  onReleased: (() => void) | undefined = undefined;
  next: MirrorEntry | undefined = undefined;
  costBytes = ENTRY_OVERHEAD_BYTES;
  #slab: Slab | undefined = undefined;

  constructor(
    kind: EntryKind,
    owner: EntryOwner,
    offset: number,
    length: number,
    sequence: number,
    timeUs: number,
  ) {
    this.kind = kind;
    this.owner = owner;
    this.offset = offset;
    this.length = length;
    this.sequence = sequence;
    this.timeUs = timeUs;
  }

  /** Keeps `data`, which was lent, until the release. */
  keep(data: Buffer): void {
    this.#slab = pinSlab(data);
    this.bytes = this.#slab ? data : Buffer.from(data);
    this.costBytes += data.length;
  }

  /** For the queue only. */
  letGo(): void {
    const slab = this.#slab;
    this.#slab = undefined;
    this.bytes = undefined;
    slab?.release();
  }
}

export class MirrorQueue {
  /** Bytes above which no further change is taken. */
  readonly limitBytes: number;
  #head: MirrorEntry | undefined;
  #tail: MirrorEntry | undefined;
  #bytes = 0;
  #releasedBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** Bytes of the entries that are queued or that the kernel has not taken, overhead included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Of all entries that are over, overhead included; goes only up. */
  get releasedBytes(): number {
    return this.#releasedBytes;
  }

  /** Whether no entry waits to be sent. */
  get isEmpty(): boolean {
    return this.#head === undefined;
  }

  /** Whether entries that cost `costBytes` together may be pushed. */
  hasRoom(costBytes: number): boolean {
    return this.#bytes + costBytes <= this.limitBytes;
  }

  push(entry: MirrorEntry): void {
    if (this.#tail) this.#tail.next = entry;
    else this.#head = entry;
    this.#tail = entry;
    this.#bytes += entry.costBytes;
    entry.owner.queuedBytes += entry.costBytes;
  }

  /** The entry at the front. It may be sent in parts, and stays until it's shifted. */
  peek(): MirrorEntry | undefined {
    return this.#head;
  }

  /** Takes the entry at the front off; it counts until it's released. */
  shift(): MirrorEntry {
    const entry = this.#head;
    assert(entry, 'shift of an empty queue');
    this.#head = entry.next;
    if (!this.#head) this.#tail = undefined;
    entry.next = undefined;
    return entry;
  }

  /** An entry that was shifted is over: its bytes may be reused. */
  release(entry: MirrorEntry): void {
    this.#bytes -= entry.costBytes;
    this.#releasedBytes += entry.costBytes;
    entry.owner.queuedBytes -= entry.costBytes;
    entry.letGo();
    entry.onReleased?.();
  }

  /** Releases everything that waits. What was shifted before is released by whoever has it. */
  drop(): void {
    while (this.#head) this.release(this.shift());
  }
}
