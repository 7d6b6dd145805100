// The one ordered stream of an agent: gives each change its sequence at the moment it enters the queue, in the turn in
// which it took effect locally. It must never make a change wait: one that doesn't fit is left to the dirty map.
import { assert } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import { DIRTY_GRANULARITY_BYTES, MAX_FRAME_PAYLOAD_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import type { DirtyWhy } from '../repwire/encode.ts';
import {
  ENTRY_OVERHEAD_BYTES,
  type EntryKind,
  type EntryOwner,
  MirrorEntry,
  MirrorQueue,
} from './mirror-queue.ts';
import { OverflowHold, RESUME_SHARE } from './overflow-hold.ts';

/** Largest range that one failed write can name: its count of sectors has 32 bits. In whole 64 KiB chunks. */
const MAX_FAILED_BYTES = (2 ** 32 - 128) * SECTOR_BYTES;

/** What a volume answers when there is room for it again. */
export interface StreamMember extends EntryOwner {
  resumeStream(): void;
}

export interface MirrorStreamEvents {
  /** Something was queued, or has to be looked after at the next turn. */
  wake(): void;
  /** A change of a volume didn't fit, while `extensions` is off: the hub can't be told. */
  lost(): void;
  /** The first volume fell back to its dirty map, or the last one has come back. */
  degraded(some: boolean): void;
}

export class MirrorStream {
  readonly queue: MirrorQueue;
  readonly #nowUs: () => number;
  readonly #events: MirrorStreamEvents;
  readonly #degraded = new Set<StreamMember>();
  readonly #hold: OverflowHold;
  #held: NodeJS.Timeout | undefined;
  #extensions = false;
  #sequence = 0;
  #overflows = 0;

  /** @param nowUs the clock, Unix microseconds @param hold for how long an overflow keeps the stream off */
  constructor(
    queueBytes: number,
    nowUs: () => number,
    events: MirrorStreamEvents,
    hold: OverflowHold = new OverflowHold(),
  ) {
    this.queue = new MirrorQueue(queueBytes);
    this.#nowUs = nowUs;
    this.#events = events;
    this.#hold = hold;
  }

  /** The newest sequence that was given out; 0: none. It goes on over connections. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Whether the hub of this connection takes more than the RFC's writes. */
  get extensions(): boolean {
    return this.#extensions;
  }

  /** How often a volume fell back to its dirty map. */
  get overflows(): number {
    return this.#overflows;
  }

  get hasDegraded(): boolean {
    return this.#degraded.size > 0;
  }

  /** A connection begins. */
  open(extensions: boolean): void {
    this.#extensions = extensions;
  }

  /** The connection is gone: nothing queued will be sent. */
  shut(): void {
    this.queue.drop();
    this.#degraded.clear();
    clearTimeout(this.#held);
    this.#held = undefined;
  }

  /**
   * The volume's data, as written. More than one frame holds becomes several entries.
   * @param data lent for the call
   * @returns the sequence of its last entry; 0: no room
   */
  write(owner: StreamMember, offset: number, data: Buffer): number {
    if (data.length <= MAX_FRAME_PAYLOAD_BYTES) {
      if (!this.queue.hasRoom(data.length + ENTRY_OVERHEAD_BYTES)) return this.#overflow(owner);
      return this.#pushWrite(owner, offset, data);
    }
    const parts = Math.ceil(data.length / MAX_FRAME_PAYLOAD_BYTES);
    if (!this.queue.hasRoom(data.length + parts * ENTRY_OVERHEAD_BYTES)) return this.#overflow(owner);
    for (let at = 0; at < data.length; at += MAX_FRAME_PAYLOAD_BYTES) {
      this.#pushWrite(owner, offset + at, data.subarray(at, at + MAX_FRAME_PAYLOAD_BYTES));
    }
    return this.#sequence;
  }

  /** A change of the range that failed locally: its content is undefined, the hub has to read it. */
  failed(owner: StreamMember, offset: number, length: number): number {
    const parts = Math.ceil(length / MAX_FAILED_BYTES);
    if (!this.queue.hasRoom(parts * ENTRY_OVERHEAD_BYTES)) return this.#overflow(owner);
    for (let at = 0; at < length; at += MAX_FAILED_BYTES) {
      this.#push(this.#entry('failed', owner, offset + at, Math.min(MAX_FAILED_BYTES, length - at)));
    }
    return this.#sequence;
  }

  zero(owner: StreamMember, kind: 'writeZeroes' | 'trim', offset: number, length: number): number {
    if (!this.queue.hasRoom(ENTRY_OVERHEAD_BYTES)) return this.#overflow(owner);
    return this.#push(this.#entry(kind, owner, offset, length));
  }

  /** The guest's flush; without the extensions there is no way to tell of it. */
  flush(owner: StreamMember): number {
    // It changes nothing, so that a full queue may leave it out.
    if (!this.#extensions || !this.queue.hasRoom(ENTRY_OVERHEAD_BYTES)) return 0;
    return this.#push(this.#entry('flush', owner, 0, 0));
  }

  /**
   * Names the chunks that the hub has to read. Never refused: it is what ends an overflow.
   * @param chunks gives them for the entry's sequence; they must not change afterwards
   * @param chunkBytes bytes of disk that one of their bits stands for
   * @param why the stream did not bring them
   */
  dirty(
    owner: StreamMember,
    chunks: (sequence: number) => Bitmap,
    chunkBytes = DIRTY_GRANULARITY_BYTES,
    why?: DirtyWhy,
  ): number {
    const entry = this.#entry('dirty', owner, 0, 0);
    entry.chunkBytes = chunkBytes;
    entry.why = why;
    entry.bits = chunks(entry.sequence);
    return this.#push(entry);
  }

  /**
   * A frame that is true at exactly this place of the stream; it has no sequence of its own.
   * @param frame not lent: the stream's from now on
   * @param onReleased called once, when it has left or was dropped
   */
  frame(owner: StreamMember, frame: Buffer, onReleased: () => void): void {
    const entry = new MirrorEntry('frame', owner, 0, 0, this.#sequence, 0);
    entry.bytes = frame;
    entry.costBytes += frame.length;
    entry.onReleased = onReleased;
    this.#push(entry);
  }

  /** The volume begins anew: whether it had fallen back doesn't matter any more. */
  leave(member: StreamMember): void {
    if (this.#degraded.delete(member) && this.#degraded.size === 0) this.#events.degraded(false);
  }

  /** The agent ends: volumes that fell back are taken back as soon as there is room. */
  hurry(): void {
    this.#hold.release();
    this.#events.wake();
  }

  /** To be called when entries were released: takes degraded volumes back once there is room, and it is time. */
  recover(): void {
    if (this.#degraded.size === 0 || this.queue.bytes > this.queue.limitBytes * RESUME_SHARE) return;
    const { waitMs } = this.#hold;
    if (waitMs > 0) {
      // Nothing may be released until then, so that nobody would ask again.
      this.#held ??= setTimeout(() => {
        this.#held = undefined;
        this.#events.wake();
      }, waitMs);
      return;
    }
    this.#hold.resumed();
    const members = [...this.#degraded];
    this.#degraded.clear();
    for (const member of members) member.resumeStream();
    this.#events.degraded(false);
  }

  #entry(kind: EntryKind, owner: EntryOwner, offset: number, length: number): MirrorEntry {
    assert(length % SECTOR_BYTES === 0 && offset % SECTOR_BYTES === 0, 'changes are whole sectors');
    this.#sequence += 1;
    return new MirrorEntry(kind, owner, offset, length, this.#sequence, this.#nowUs());
  }

  #pushWrite(owner: StreamMember, offset: number, data: Buffer): number {
    const entry = this.#entry('write', owner, offset, data.length);
    entry.keep(data);
    return this.#push(entry);
  }

  #push(entry: MirrorEntry): number {
    this.queue.push(entry);
    this.#events.wake();
    return entry.sequence;
  }

  #overflow(owner: StreamMember): 0 {
    this.#overflows += 1;
    if (!this.#extensions) {
      this.#events.lost();
      return 0;
    }
    const isFirst = this.#degraded.size === 0;
    this.#degraded.add(owner);
    if (isFirst) this.#hold.overflowed();
    this.#events.wake();
    if (isFirst) this.#events.degraded(true);
    return 0;
  }
}
