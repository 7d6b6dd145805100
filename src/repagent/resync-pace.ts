// When the agent's disks may be read for the hubs: --resync-rate. `auto` gives way to guests, a rate is a bound. Queues
// that have something to begin take turns. It must never keep a read back for ever: whatever guests do, and though a
// disk hangs, another one begins within a bounded time.
import { maxKnown } from '../base/max-known.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { TokenBucket } from '../base/token-bucket.ts';
import type { ResyncReads } from '../control/status.ts';
import type { GuestLoad, LoadWatcher } from './guest-load.ts';
import { RateMeter } from './rate-meter.ts';
import { ResyncSteps } from './resync-steps.ts';

/** auto, or bytes a second at most, which are read whatever guests do. */
export type ResyncRate = 'auto' | number;

/** A row of requests, of one kind and one hub. */
export interface PacedQueue {
  /** Begins one, with {@link ResyncPace.begin}. @returns whether it wants another turn */
  beginNext(): boolean;
}

/** Reads under way at one time with a rate. */
const AT_ONCE = 16;

/** Begun in one turn of the event loop. */
const PER_TURN = 2;

/** For how long allowance that is not used is saved up, ms. */
const BURST_MS = 100;

/** The longest rest, ms. */
export const MAX_REST_MS = 250;

/** While guests are there: least time between the beginnings of two reads, ms, and rest for what held up the thread. */
const GUEST_GAP_MS = 1;
const THREAD_REST = 4;

/** A read that takes longer hangs: others don't wait for it, ms. */
export const HUNG_MS = 2000;

/** How often guests have the disk for themselves while they are there, and for how long, ms. */
const QUIET_EVERY_MS = 1000;
const MIN_QUIET_MS = 60;
const MAX_QUIET_MS = 250;

/** In that time so many requests, one after the other, should have been answered. */
const QUIET_REQUESTS = 8;

/** In the first part of it guests still wait for what was read before. */
const SETTLING_SHARE = 0.5;

/** The most of all time that is quiet. */
const QUIET_SHARE = 0.1;

/** How long after the last read guests are still watched, ms. */
const WATCH_ON_MS = 1000;

/** A request that was begun, and what it uses. */
export class PaceTurn {
  readonly beganMs: number;
  /** What it was expected to move at most. */
  readonly maxBytes: number;
  /** What it has moved. */
  bytes = 0;
  /** How long the disk was at it, ms. */
  diskMs = 0;
  /** How long it held up the thread that serves guests, ms. */
  threadMs = 0;
  readonly #over: (turn: PaceTurn) => void;
  #isOver = false;

  constructor(beganMs: number, maxBytes: number, over: (turn: PaceTurn) => void) {
    this.beganMs = beganMs;
    this.maxBytes = maxBytes;
    this.#over = over;
  }

  /** Has the disk move so many bytes. */
  async use(bytes: number, work: () => MaybePromise<void>): Promise<void> {
    this.bytes += bytes;
    const beganMs = performance.now();
    try {
      const answer = work();
      this.threadMs += performance.now() - beganMs;
      if (answer) await answer;
    } finally {
      this.diskMs += performance.now() - beganMs;
    }
  }

  /** Does what keeps the thread. */
  hold<T>(work: () => T): T {
    const beganMs = performance.now();
    const result = work();
    this.threadMs += performance.now() - beganMs;
    return result;
  }

  /** It needs neither any more. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#over(this);
  }
}

export class ResyncPace implements LoadWatcher {
  readonly rate: ResyncRate;
  readonly #bucket: TokenBucket | undefined;
  readonly #steps = new ResyncSteps();
  readonly #loads = new Set<GuestLoad>();
  readonly #meter = new RateMeter(performance.now());
  /** Whose turn it is stands first. */
  readonly #waiting = new Set<PacedQueue>();
  /** What is under way, the oldest first. */
  readonly #active = new Set<PaceTurn>();
  #turnDue: NodeJS.Immediate | undefined;
  #later: NodeJS.Timeout | undefined;
  #watchEnd: NodeJS.Timeout | undefined;
  #isWatching = false;
  #isQuiet = false;
  /** When the next quiet moment is due, or the present one began; when guests no longer feel what was before; its end. */
  #quietAtMs = 0;
  #settledAtMs = 0;
  #quietUntilMs = 0;
  #notBeforeMs = 0;

  constructor(rate: ResyncRate) {
    this.rate = rate;
    this.#bucket = rate === 'auto' ? undefined : new TokenBucket(rate, BURST_MS, performance.now());
  }

  /** A disk that may be read. */
  add(load: GuestLoad): void {
    this.#loads.add(load);
    if (this.#isWatching) load.watcher = this;
  }

  get isQuiet(): boolean {
    return this.#isQuiet && performance.now() >= this.#settledAtMs;
  }

  get status(): ResyncReads {
    const nowMs = performance.now();
    return {
      rate: this.rate,
      readBytes: this.#meter.totalBytes,
      bytesPerSecond: this.#meter.bytesPerSecond(nowMs),
      yielding: this.#isWatching && this.#steps.areThere(nowMs),
    };
  }

  /** A queue has something to begin. */
  wants(queue: PacedQueue): void {
    this.#waiting.add(queue);
    this.#watch();
    this.#schedule();
  }

  /** It has nothing any more. */
  leave(queue: PacedQueue): void {
    this.#waiting.delete(queue);
    if (this.#waiting.size === 0) clearTimeout(this.#later);
    this.#unwatchSoon();
  }

  /** A queue begins a request, in its turn. @param maxBytes that the disk will move at most */
  begin(maxBytes: number): PaceTurn {
    const nowMs = performance.now();
    const turn = new PaceTurn(nowMs, maxBytes, this.#ended);
    this.#active.add(turn);
    this.#bucket?.take(maxBytes);
    if (this.#givesWay(nowMs)) this.#notBeforeMs = nowMs + GUEST_GAP_MS;
    return turn;
  }

  readonly #ended = (turn: PaceTurn): void => {
    const nowMs = performance.now();
    this.#active.delete(turn);
    this.#bucket?.take(turn.bytes - turn.maxBytes);
    this.#meter.note(turn.bytes, nowMs);
    if (this.#givesWay(nowMs)) {
      const { rest, leastRestMs } = this.#steps.step;
      const diskRestMs = Math.min(MAX_REST_MS, rest * turn.diskMs);
      const restMs = Math.max(THREAD_REST * turn.threadMs, diskRestMs, leastRestMs);
      this.#notBeforeMs = Math.max(this.#notBeforeMs, nowMs + restMs);
    }
    this.#unwatchSoon();
    this.#schedule();
  };

  #schedule(): void {
    if (this.#turnDue || this.#waiting.size === 0) return;
    clearTimeout(this.#later);
    const waitMs = this.#waitMs(performance.now());
    if (waitMs === 0) this.#turnDue = setImmediate(this.#turn);
    else this.#later = setTimeout(() => this.#schedule(), Math.ceil(waitMs));
  }

  readonly #turn = (): void => {
    this.#turnDue = undefined;
    for (let begun = 0; begun < PER_TURN && this.#waitMs(performance.now()) === 0; begun += 1) {
      const [queue] = this.#waiting;
      if (!queue) return;
      this.#waiting.delete(queue);
      if (queue.beginNext()) this.#waiting.add(queue);
    }
    this.#schedule();
  };

  /** Until it is worth asking again whether a read may begin, ms; 0: it may. */
  #waitMs(nowMs: number): number {
    if (this.#bucket) return this.#crowdedMs(AT_ONCE, nowMs) || this.#bucket.waitMs(nowMs);
    const cameBack = this.#steps.look(nowMs, this.#loads);
    if (!this.#steps.areThere(nowMs)) {
      this.#isQuiet = false;
      return this.#crowdedMs(this.#steps.step.atOnce, nowMs);
    }
    if (cameBack) this.#quietAtMs = nowMs;
    return (
      this.#quietMs(nowMs) ||
      this.#crowdedMs(this.#steps.step.atOnce, nowMs) ||
      Math.max(0, this.#notBeforeMs - nowMs)
    );
  }

  /** Until one of those under way hangs, if they are too many; when one ends it is looked at again anyway. */
  #crowdedMs(atOnce: number, nowMs: number): number {
    let count = 0;
    let firstMs = 0;
    for (const { beganMs } of this.#active) {
      const leftMs = HUNG_MS - (nowMs - beganMs);
      if (leftMs <= 0) continue;
      if (count === 0) firstMs = leftMs;
      count += 1;
    }
    return count >= atOnce ? firstMs : 0;
  }

  /** Until the quiet moment that is due or under way is over; 0: there is none. */
  #quietMs(nowMs: number): number {
    if (this.#isQuiet) {
      if (nowMs < this.#quietUntilMs) return this.#quietUntilMs - nowMs;
      this.#isQuiet = false;
      const lastedMs = nowMs - this.#quietAtMs;
      this.#quietAtMs = nowMs + Math.max(QUIET_EVERY_MS, lastedMs / QUIET_SHARE);
      return 0;
    }
    if (nowMs < this.#quietAtMs) return 0;
    // It begins when nothing is read any more.
    const crowdedMs = this.#crowdedMs(1, nowMs);
    if (crowdedMs > 0) return crowdedMs;
    const lengthMs = this.#quietLengthMs();
    this.#isQuiet = true;
    this.#quietAtMs = nowMs;
    this.#settledAtMs = nowMs + SETTLING_SHARE * lengthMs;
    this.#quietUntilMs = nowMs + lengthMs;
    return lengthMs;
  }

  #quietLengthMs(): number {
    const requestMs = maxKnown(Array.from(this.#loads, ({ quietMs }) => quietMs));
    if (requestMs === undefined) return MAX_QUIET_MS;
    return Math.min(MAX_QUIET_MS, Math.max(MIN_QUIET_MS, QUIET_REQUESTS * requestMs));
  }

  #givesWay(nowMs: number): boolean {
    return this.rate === 'auto' && this.#steps.areThere(nowMs);
  }

  #watch(): void {
    clearTimeout(this.#watchEnd);
    this.#watchEnd = undefined;
    if (this.rate !== 'auto' || this.#isWatching) return;
    this.#isWatching = true;
    for (const load of this.#loads) {
      load.forget();
      load.watcher = this;
    }
    this.#steps.restart(performance.now(), this.#loads);
  }

  #unwatchSoon(): void {
    if (!this.#isWatching || this.#watchEnd || this.#active.size > 0 || this.#waiting.size > 0) return;
    this.#watchEnd = setTimeout(() => {
      this.#watchEnd = undefined;
      this.#isWatching = false;
      this.#isQuiet = false;
      for (const load of this.#loads) load.watcher = undefined;
    }, WATCH_ON_MS);
    this.#watchEnd.unref();
  }
}
