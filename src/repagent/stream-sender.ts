// Moves the stream, and the answers to the hub's requests beside it, to the connection: gathered, in turns, and only
// as fast as the hub takes them. It must keep the stream's order, and give every entry and answer back exactly once.
import { unreachable } from '../base/assert.ts';
import { sharedPool } from '../base/buffer-pool.ts';
import { KiB, MiB } from '../base/limits.ts';
import { FRAME_HEADER_BYTES, MAX_EXTENTS_PER_FRAME } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import type { DiskRange } from '../repwire/messages.ts';
import { FrameGather, MAX_COPIED_BYTES } from './frame-gather.ts';
import type { LinkLimiter } from './link-limiter.ts';
import type { MirrorEntry, MirrorQueue } from './mirror-queue.ts';

/** Bytes that may wait in the socket; above it everything stays in the queue. */
const HIGH_WATER_BYTES = MiB;

/** Bytes of the stream, and of answers, that one turn of the event loop moves at least, if there are as many. */
const TURN_BYTES = 256 * KiB;

/** Under a limit the stream and the answers take turns of about so many bytes. */
const LIMITED_TURN_BYTES = 64 * KiB;

/** Zeroes to a hub that knows the RFC alone go as writes of at most so many bytes. */
const ZERO_PIECE_BYTES = MiB;

let zeroPiece: Buffer | undefined;

/** What the sender needs of a connection. */
export interface Outlet {
  readonly unsentBytes: number;
  send(parts: readonly Buffer[], sent?: () => void): void;
}

/** An answer beside the stream. */
export interface Answer {
  readonly head: Buffer;
  readonly data: Buffer | undefined;
  /** The answer has left, or never will: its data may be reused. */
  over(): void;
}

export interface StreamSenderOptions {
  readonly outlet: Outlet;
  readonly queue: MirrorQueue;
  /** Whether the hub takes more than the RFC's writes. */
  readonly extensions: boolean;
  /** Says when the next frame may leave, and is told of what left. */
  readonly limiter: LinkLimiter;
  /** Bytes of the queue were released, or a turn begins. */
  readonly onRoom: () => void;
  /** Something in here went wrong; the connection must end. */
  readonly onFault: (error: unknown) => void;
}

export class StreamSender {
  readonly #options: StreamSenderOptions;
  readonly #answers: Answer[] = [];
  readonly #gather = new FrameGather(sharedPool);
  #scheduled = false;
  #stopped = false;
  /** Sends that the kernel has not taken whole. */
  #underway = 0;
  /** Bytes by which the stream is ahead of the answers, since both have something to send under a limit. */
  #streamLead = 0;
  /** Runs while the limit allows nothing. */
  #untilAllowed: NodeJS.Timeout | undefined;

  constructor(options: StreamSenderOptions) {
    this.#options = options;
  }

  /** Whether everything that was queued has left. */
  get isIdle(): boolean {
    return this.#underway === 0 && this.#answers.length === 0 && this.#options.queue.isEmpty;
  }

  /** There is something to send: it's looked after at the next turn, once the guests were served. */
  wake(): void {
    if (this.#scheduled || this.#stopped || this.#untilAllowed) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  answer(answer: Answer): void {
    if (this.#stopped) {
      answer.over();
      return;
    }
    this.#answers.push(answer);
    this.wake();
  }

  /** The connection is gone. What it has taken is given back when it lets go of it. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#untilAllowed);
    for (const answer of this.#answers.splice(0)) answer.over();
    this.#gather.rest();
  }

  readonly #turn = (): void => {
    this.#scheduled = false;
    if (this.#stopped) return;
    try {
      this.#options.onRoom();
      if (this.#options.outlet.unsentBytes >= HIGH_WATER_BYTES) return;
      if (this.#options.limiter.isLimited) {
        this.#sendLimited();
      } else {
        this.#sendStream(TURN_BYTES);
        this.#sendAnswers(TURN_BYTES);
      }
      if (!this.#options.queue.isEmpty || this.#answers.length > 0) this.wake();
    } catch (error) {
      this.#options.onFault(error);
    }
  };

  /** A turn of the stream, or of the answers when that is ahead: each gets half while both want the link. */
  #sendLimited(): void {
    const waitMs = this.#options.limiter.waitMs();
    if (waitMs > 0) {
      this.#untilAllowed = setTimeout(() => {
        this.#untilAllowed = undefined;
        this.#turn();
      }, Math.ceil(waitMs));
      return;
    }
    const hasStream = !this.#options.queue.isEmpty;
    const hasAnswers = this.#answers.length > 0;
    if (!hasStream || !hasAnswers) this.#streamLead = 0;
    if (hasStream && (!hasAnswers || this.#streamLead <= 0)) {
      this.#streamLead += this.#sendStream(LIMITED_TURN_BYTES);
    } else {
      this.#streamLead -= this.#sendAnswers(LIMITED_TURN_BYTES);
    }
  }

  /** @returns bytes sent */
  #sendStream(turnBytes: number): number {
    const { queue, outlet, limiter } = this.#options;
    const done: MirrorEntry[] = [];
    for (let bytes = 0; bytes < turnBytes; ) {
      const entry = queue.peek();
      if (!entry) break;
      const isWhole = this.#expand(entry);
      bytes += Math.max(1, entry.costBytes);
      if (isWhole) done.push(queue.shift());
      else bytes += ZERO_PIECE_BYTES;
    }
    const { parts, slabs } = this.#gather.take();
    if (parts.length === 0) return 0;
    let sentBytes = 0;
    for (const part of parts) sentBytes += part.length;
    limiter.take(sentBytes);
    this.#underway += 1;
    const giveBack = (): void => {
      for (const slab of slabs) slab.release();
      for (const entry of done) queue.release(entry);
    };
    outlet.send(parts, () => this.#left(giveBack));
    return sentBytes;
  }

  /** @returns bytes sent */
  #sendAnswers(turnBytes: number): number {
    let bytes = 0;
    while (bytes < turnBytes) {
      const answer = this.#answers.shift();
      if (!answer) break;
      bytes += answer.head.length + (answer.data?.length ?? 0);
      this.#underway += 1;
      const parts = answer.data ? [answer.head, answer.data] : [answer.head];
      this.#options.outlet.send(parts, () => this.#left(() => answer.over()));
    }
    this.#options.limiter.take(bytes);
    return bytes;
  }

  #left(giveBack: () => void): void {
    this.#underway -= 1;
    try {
      giveBack();
      if (this.#stopped) return;
      if (this.#underway === 0 && this.#options.queue.isEmpty) this.#gather.rest();
      else this.#gather.reuse();
      this.#options.onRoom();
      if (!this.#options.queue.isEmpty || this.#answers.length > 0) this.wake();
    } catch (error) {
      this.#options.onFault(error);
    }
  }

  /** Gathers the entry's next frames. @returns whether that was all of it */
  #expand(entry: MirrorEntry): boolean {
    const { extensions } = this.#options;
    const gather = this.#gather;
    const { kind, offset, length } = entry;
    const id = entry.owner.wireId;
    const stamp = extensions ? entry : encode.NO_STAMP;
    switch (kind) {
      case 'write':
        gatherWrite(gather, id, offset, stamp, entry.bytes!);
        return true;
      case 'failed':
        gather.addPart(encode.encodeProtectedWrite(id, offset, length, -1, stamp, NO_BYTES));
        return true;
      case 'writeZeroes':
      case 'trim':
        if (!extensions) return expandZeroes(entry, gather);
        gather.addPart(encode.encodeProtectedZero(id, offset, length, kind === 'trim', stamp));
        return true;
      case 'flush':
        gather.addPart(encode.encodeProtectedFlush(id, stamp));
        return true;
      case 'dirty':
        return expandDirty(entry, gather);
      case 'frame':
        gather.addPart(entry.bytes!);
        return true;
      default:
        return unreachable(kind, 'entry');
    }
  }
}

const NO_BYTES = Buffer.alloc(0);

function gatherWrite(
  gather: FrameGather,
  volumeId: bigint,
  offset: number,
  stamp: encode.Stamp,
  data: Buffer,
): void {
  if (data.length > MAX_COPIED_BYTES) {
    gather.addPart(encode.encodeProtectedWrite(volumeId, offset, data.length, 0, stamp, data));
    gather.addPart(data);
    return;
  }
  const at = gather.reserve(FRAME_HEADER_BYTES + data.length);
  encode.putProtectedWrite(gather.target, at, volumeId, offset, data.length, 0, stamp, data);
  gather.target.set(data, at + FRAME_HEADER_BYTES);
}

/** The next piece of a range of zeroes, as a write. */
function expandZeroes(entry: MirrorEntry, gather: FrameGather): boolean {
  zeroPiece ??= Buffer.alloc(ZERO_PIECE_BYTES);
  const length = Math.min(ZERO_PIECE_BYTES, entry.length - entry.cursor);
  const data = zeroPiece.subarray(0, length);
  const at = entry.offset + entry.cursor;
  gatherWrite(gather, entry.owner.wireId, at, encode.NO_STAMP, data);
  entry.cursor += length;
  return entry.cursor === entry.length;
}

/** The next frame of a DIRTY list. */
function expandDirty(entry: MirrorEntry, gather: FrameGather): boolean {
  const bits = entry.bits!;
  const { chunkBytes } = entry;
  const { wireId, sizeBytes } = entry.owner;
  const extents: DiskRange[] = [];
  let start = bits.nextSet(entry.cursor);
  while (start !== -1 && extents.length < MAX_EXTENTS_PER_FRAME) {
    const end = bits.nextClear(start);
    const offset = start * chunkBytes;
    extents.push({ offset, length: Math.min(end * chunkBytes, sizeBytes) - offset });
    entry.cursor = end;
    start = end < bits.sizeBits ? bits.nextSet(end) : -1;
  }
  const more = start !== -1;
  gather.addPart(encode.encodeDirty(wireId, entry, extents, more, entry.why));
  return !more;
}
