// Moves the stream, and the answers to the hub's requests beside it, to the connection: gathered, in turns, and only
// as fast as the hub takes them. It must keep the stream's order, and give every entry and answer back exactly once.
import { sharedPool } from '../base/buffer-pool.ts';
import { KiB, MiB } from '../base/limits.ts';
import { MAX_PACKED_CONTENT_BYTES } from '../repwire/constants.ts';
import { type Compression, FASTEST_QUALITY, qualityFor } from './compression.ts';
import { gatherEntry, ZERO_PIECE_BYTES } from './entry-frames.ts';
import { FrameGather } from './frame-gather.ts';
import { LinkGauge } from './link-gauge.ts';
import type { LinkLimiter } from './link-limiter.ts';
import { Load, LoadPacker, type PackerTuning } from './load-packer.ts';
import type { EntryKind, MirrorEntry, MirrorQueue } from './mirror-queue.ts';

/** Bytes that may wait in the socket; above it everything stays in the queue. */
const HIGH_WATER_BYTES = MiB;

/** The same while what waits can be packed: enough, since below it the kernel's own buffer is full. */
const PACKING_HIGH_WATER_BYTES = 64 * KiB;

/** Bytes of the stream, and of answers, that one turn of the event loop moves at least, if there are as many. */
const TURN_BYTES = 256 * KiB;

/** Under a limit the stream and the answers take turns of about so many bytes. */
const LIMITED_TURN_BYTES = 64 * KiB;

/** Bytes that are packed together, and how many such loads ahead of what leaves next. */
const PACKED_LOAD_BYTES = 256 * KiB;
const LOADS_AHEAD = 8;

/** What may be inside PACKED. */
const PACKABLE: ReadonlySet<EntryKind> = new Set<EntryKind>([
  'write',
  'failed',
  'writeZeroes',
  'trim',
  'flush',
]);

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
  /** With what frames are packed; undefined: not at all. */
  readonly compression?: (Compression & PackerTuning) | undefined;
  /** Bytes of the queue were released, or a turn begins. */
  readonly onRoom: () => void;
  /** Something in here went wrong; the connection must end. */
  readonly onFault: (error: unknown) => void;
}

export class StreamSender {
  readonly #options: StreamSenderOptions;
  readonly #packer: LoadPacker | undefined;
  readonly #gauge = new LinkGauge();
  readonly #gather = new FrameGather(sharedPool);
  /** What was taken off the queue to be packed, in order; without a packer always empty. */
  readonly #stream: Load[] = [];
  readonly #answers: Load[] = [];
  #scheduled = false;
  #stopped = false;
  /** Sends that the kernel has not taken whole. */
  #underway = 0;
  #givenBytes = 0;
  /** Bytes by which the stream is ahead of the answers, since both have something to send under a limit. */
  #streamLead = 0;
  /** Runs while the limit allows nothing. */
  #untilAllowed: NodeJS.Timeout | undefined;

  constructor(options: StreamSenderOptions) {
    this.#options = options;
    const { compression } = options;
    this.#packer = compression && new LoadPacker({ ...compression, onReady: () => this.wake() });
  }

  /** Whether everything that was queued has left. */
  get isIdle(): boolean {
    const isEmpty = this.#options.queue.isEmpty && this.#stream.length === 0;
    return this.#underway === 0 && this.#answers.length === 0 && isEmpty;
  }

  /** There is something to send: it's looked after at the next turn, once the guests were served. */
  wake(): void {
    if (this.#scheduled || this.#stopped || (this.#untilAllowed && !this.#packer)) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  answer(answer: Answer): void {
    if (this.#stopped) {
      answer.over();
      return;
    }
    const { head, data } = answer;
    this.#answers.push(new Load(data ? [head, data] : [head], () => answer.over()));
    this.wake();
  }

  /** The connection is gone. What it has taken is given back when it lets go of it. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#untilAllowed);
    this.#packer?.stop();
    for (const load of this.#stream.splice(0)) load.over();
    for (const load of this.#answers.splice(0)) load.over();
    this.#gather.rest();
  }

  readonly #turn = (): void => {
    this.#scheduled = false;
    if (this.#stopped) return;
    try {
      this.#options.onRoom();
      const { unsentBytes } = this.#options.outlet;
      if (this.#packer) this.#gauge.look(this.#givenBytes, unsentBytes, performance.now());
      const isBlocked = unsentBytes >= this.#highWaterBytes;
      this.#packAhead(isBlocked);
      if (isBlocked) return;
      if (this.#options.limiter.isLimited) {
        if (!this.#sendLimited()) return;
      } else {
        this.#sendStream(TURN_BYTES);
        this.#sendAnswers(TURN_BYTES);
      }
      if (this.#packer) {
        this.#gauge.look(this.#givenBytes, this.#options.outlet.unsentBytes, performance.now());
      }
      if (this.#hasWork) this.wake();
    } catch (error) {
      this.#options.onFault(error);
    }
  };

  get #highWaterBytes(): number {
    if (!this.#packer || this.#packer.always) return HIGH_WATER_BYTES;
    return qualityFor(this.#speed) === undefined ? HIGH_WATER_BYTES : PACKING_HIGH_WATER_BYTES;
  }

  /** Of the link, as far as it's known, bytes a second. */
  get #speed(): number | undefined {
    const measured = this.#gauge.bytesPerSecond;
    const limit = this.#options.limiter.limitBytesPerSecond;
    return limit === null ? measured : Math.min(limit, measured ?? limit);
  }

  /** A load that is being packed is waited for only where everything is to be packed. */
  #mayLeave(load: Load | undefined): boolean {
    return load !== undefined && (load.state !== 'packing' || !this.#packer!.always);
  }

  get #streamMayLeave(): boolean {
    const front = this.#stream[0];
    return front ? this.#mayLeave(front) : !this.#options.queue.isEmpty;
  }

  /** Whether a further turn can send something. */
  get #hasWork(): boolean {
    return this.#streamMayLeave || this.#mayLeave(this.#answers[0]);
  }

  /** Has the next loads packed, where it's worth it. @param waits nothing can leave at present */
  #packAhead(waits: boolean): void {
    const packer = this.#packer;
    if (!packer || !(waits || packer.always)) return;
    const quality = qualityFor(this.#speed) ?? (packer.always ? FASTEST_QUALITY : undefined);
    if (quality === undefined) return;
    while (this.#stream.length < LOADS_AHEAD) {
      const load = this.#takeLoad(PACKED_LOAD_BYTES, true);
      if (!load) break;
      this.#stream.push(load);
    }
    for (const lane of [this.#stream, this.#answers]) {
      for (let i = 0; i < Math.min(LOADS_AHEAD, lane.length); i += 1) {
        if (lane[i]!.state === 'new') packer.add(lane[i]!, quality);
      }
    }
    packer.begin();
  }

  /**
   * A turn of the stream, or of the answers when that is ahead: each gets half while both want the link.
   * @returns false when nothing may leave now
   */
  #sendLimited(): boolean {
    const { limiter } = this.#options;
    const waitMs = limiter.waitMs();
    if (waitMs > 0) {
      this.#untilAllowed ??= setTimeout(() => {
        this.#untilAllowed = undefined;
        this.#turn();
      }, Math.ceil(waitMs));
      this.#packAhead(true);
      return false;
    }
    const hasStream = this.#streamMayLeave;
    const hasAnswers = this.#mayLeave(this.#answers[0]);
    if (!hasStream || !hasAnswers) this.#streamLead = 0;
    if (hasStream && (!hasAnswers || this.#streamLead <= 0)) {
      this.#streamLead += this.#sendStream(LIMITED_TURN_BYTES);
    } else if (hasAnswers) {
      this.#streamLead -= this.#sendAnswers(LIMITED_TURN_BYTES);
    }
    return true;
  }

  /** @returns bytes sent */
  #sendStream(turnBytes: number): number {
    let bytes = this.#sendLane(this.#stream, turnBytes);
    // What follows what is being packed must not overtake it.
    if (this.#stream.length > 0 || this.#packer?.always || bytes >= turnBytes) return bytes;
    const load = this.#takeLoad(turnBytes - bytes, false);
    if (load) bytes += this.#send(load);
    return bytes;
  }

  /** @returns bytes sent */
  #sendAnswers(turnBytes: number): number {
    return this.#sendLane(this.#answers, turnBytes);
  }

  #sendLane(lane: Load[], turnBytes: number): number {
    let bytes = 0;
    while (bytes < turnBytes && this.#mayLeave(lane[0])) bytes += this.#send(lane.shift()!);
    return bytes;
  }

  #send(load: Load): number {
    if (load.state === 'packing') this.#packer!.giveUp(load);
    const { limiter, outlet } = this.#options;
    const { sentBytes, bytes, packed, parts } = load;
    limiter.take(sentBytes, bytes);
    this.#givenBytes += sentBytes;
    this.#underway += 1;
    outlet.send(packed ?? parts, () => this.#left(load.over));
    return sentBytes;
  }

  /**
   * Takes entries off the queue that leave together.
   * @param aboutBytes it ends with the entry that reaches it
   * @param toPack ends before what can't be packed, and holds only that when it begins with it
   */
  #takeLoad(aboutBytes: number, toPack: boolean): Load | undefined {
    const { queue, extensions } = this.#options;
    const done: MirrorEntry[] = [];
    let isPlain = false;
    for (let bytes = 0; bytes < aboutBytes && !isPlain; ) {
      const entry = queue.peek();
      if (!entry) break;
      const isAlone = toPack && !PACKABLE.has(entry.kind);
      const isTooMuch = toPack && bytes + entry.costBytes > MAX_PACKED_CONTENT_BYTES;
      if ((isAlone || isTooMuch) && done.length > 0) break;
      isPlain = isAlone;
      const isWhole = gatherEntry(entry, extensions, this.#gather);
      bytes += Math.max(1, entry.costBytes);
      if (isWhole) done.push(queue.shift());
      else bytes += ZERO_PIECE_BYTES;
    }
    const { parts, slabs } = this.#gather.take();
    if (parts.length === 0) return undefined;
    const load = new Load(parts, () => {
      for (const slab of slabs) slab.release();
      for (const entry of done) queue.release(entry);
    });
    if (isPlain) load.state = 'plain';
    return load;
  }

  #left(giveBack: () => void): void {
    this.#underway -= 1;
    try {
      giveBack();
      if (this.#stopped) return;
      if (this.isIdle) this.#gather.rest();
      else this.#gather.reuse();
      this.#options.onRoom();
      if (this.#hasWork) this.wake();
    } catch (error) {
      this.#options.onFault(error);
    }
  }
}
