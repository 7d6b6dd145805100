// How guests fare at one disk while a hub reads it: how long their requests take at it, beside how long those take that
// began in a quiet moment, when nothing was read. It only looks on: it must never change what a request does.

import { maxKnown } from '../base/max-known.ts';

/** What guests ask for; each is compared with its own kind alone. */
export const GUEST_READ = 0;
export const GUEST_CHANGE = 1;
export const GUEST_FLUSH = 2;
export type GuestKind = typeof GUEST_READ | typeof GUEST_CHANGE | typeof GUEST_FLUSH;

/** Whoever reads the disk and wants to know. */
export interface LoadWatcher {
  /** Nothing is read now, so that guests have the disk for themselves. */
  readonly isQuiet: boolean;
}

/** Requests take too long when they take so many times as long as in quiet moments, and at least so much more. */
const PRESSURE_FACTOR = 1.5;
const PRESSURE_MS = 0.5;

/** Fewer say nothing: latencies of one disk differ by chance. */
const ENOUGH = 32;

/** So many say enough when they take far too long. */
const FEW = 8;
const FAR_TOO_LONG = 2;

/** How fast what is known of quiet moments follows a shorter mean, and a longer one, which may be an older crowd's backlog. */
const FALL = 0.5;
const RISE = 0.1;

/** The mean of what was seen lately. */
class Mean {
  count = 0;
  #totalMs = 0;

  add(ms: number): void {
    this.count += 1;
    this.#totalMs += ms;
  }

  /** With so many more that have taken so long together up to now, and may take longer. */
  atLeastMs(moreCount: number, moreMs: number): number {
    if (this.count === 0) return moreCount === 0 ? 0 : moreMs / moreCount;
    const seenMs = this.#totalMs / this.count;
    return Math.max(seenMs, (this.#totalMs + moreMs) / (this.count + moreCount));
  }

  clear(): void {
    this.count = 0;
    this.#totalMs = 0;
  }
}

/** What requests take in quiet moments. */
class Baseline {
  readonly #batch = new Mean();
  #ms: number | undefined;

  add(ms: number): void {
    const batch = this.#batch;
    batch.add(ms);
    if (batch.count < ENOUGH) return;
    const mean = batch.atLeastMs(0, 0);
    const known = this.#ms ?? mean;
    this.#ms = known + (mean < known ? FALL : RISE) * (mean - known);
    batch.clear();
  }

  /** Undefined: not known. */
  get ms(): number | undefined {
    return this.#ms ?? (this.#batch.count < FEW ? undefined : this.#batch.atLeastMs(0, 0));
  }

  clear(): void {
    this.#batch.clear();
    this.#ms = undefined;
  }
}

/** Requests of one kind, all of them or those that the disk did not answer at once. */
class Comparison {
  readonly quiet = new Baseline();
  readonly shared = new Mean();

  /** By what factor they take longer than they should at most; undefined: too few were seen. */
  pressure(waiting: number, waitingMs: number): number | undefined {
    const quietMs = this.quiet.ms;
    const count = this.shared.count + waiting;
    if (quietMs === undefined || count < FEW) return undefined;
    const limitMs = Math.max(PRESSURE_FACTOR * quietMs, quietMs + PRESSURE_MS);
    const pressure = this.shared.atLeastMs(waiting, waitingMs) / limitMs;
    return count >= ENOUGH || pressure >= FAR_TOO_LONG ? pressure : undefined;
  }
}

class KindLoad {
  /** What was answered at once in quiet moments may have to wait now. */
  readonly all = new Comparison();
  /** Among many that don't wait, those that wait anyway, and for longer now, would not be seen. */
  readonly waited = new Comparison();
  /** Of the requests that began beside reads and have not been answered: how many, and the sum of their beginnings, ms. */
  waiting = 0;
  waitingSinceMs = 0;

  pressure(nowMs: number): number | undefined {
    const waitingMs = this.waiting * nowMs - this.waitingSinceMs;
    return maxKnown([this.all, this.waited].map((one) => one.pressure(this.waiting, waitingMs)));
  }
}

export class GuestLoad {
  /** Undefined: nobody wants to know. */
  watcher: LoadWatcher | undefined;
  readonly #kinds = [new KindLoad(), new KindLoad(), new KindLoad()] as const;
  #requests = 0;
  #inFlight = 0;

  /** A request was given to the disk. @param answer its answer; anything but a promise: at once */
  watch(kind: GuestKind, answer: unknown): void {
    this.#requests += 1;
    const isQuiet = this.watcher?.isQuiet === true;
    const load = this.#kinds[kind];
    if (answer instanceof Promise) this.#watchAnswer(load, isQuiet, answer);
    else load.all[isQuiet ? 'quiet' : 'shared'].add(0);
  }

  /** Requests seen; goes only up. */
  get requests(): number {
    return this.#requests;
  }

  /** Requests that the disk has not answered. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * How long requests take, of the kind that suffers most, as a part of the longest that they should; above 1 is too
   * long. Undefined: too few were seen to tell.
   * @param nowMs performance.now()
   */
  pressure(nowMs: number): number | undefined {
    return maxKnown(this.#kinds.map((load) => load.pressure(nowMs)));
  }

  /** How long a request takes in quiet moments, of the kind that takes longest, ms; undefined: not known. */
  get quietMs(): number | undefined {
    return maxKnown(this.#kinds.map(({ all }) => all.quiet.ms));
  }

  /** The disk may be read in another way from now on: what was seen beside reads so far says nothing about that. */
  restart(): void {
    for (const { all, waited } of this.#kinds) {
      all.shared.clear();
      waited.shared.clear();
    }
  }

  /** Nothing that was seen counts any more. */
  forget(): void {
    this.restart();
    for (const { all, waited } of this.#kinds) {
      all.quiet.clear();
      waited.quiet.clear();
    }
  }

  #watchAnswer(load: KindLoad, isQuiet: boolean, answer: Promise<unknown>): void {
    const beganMs = performance.now();
    this.#inFlight += 1;
    if (!isQuiet) {
      load.waiting += 1;
      load.waitingSinceMs += beganMs;
    }
    const ended = (): void => {
      const tookMs = performance.now() - beganMs;
      this.#inFlight -= 1;
      if (!isQuiet) {
        load.waiting -= 1;
        load.waitingSinceMs = load.waiting === 0 ? 0 : load.waitingSinceMs - beganMs;
      }
      const moment = isQuiet ? 'quiet' : 'shared';
      load.all[moment].add(tookMs);
      load.waited[moment].add(tookMs);
    };
    answer.then(ended, ended);
  }
}
