// How hard a disk may be read for resyncs while guests use it: one step slower when their requests take clearly longer
// than in quiet moments, one faster when they have not for a while. Even the slowest step reads: every resync ends.
import { maxKnown } from '../base/max-known.ts';
import type { GuestLoad } from './guest-load.ts';

export interface ResyncStep {
  /** Reads under way at one time. */
  readonly atOnce: number;
  /** How long is rested after each, as a multiple of what it took of the disk. */
  readonly rest: number;
  /** And at least so long, ms: a disk that lends what others pay for later seems to take no time. */
  readonly leastRestMs: number;
}

/** From the fastest to the slowest. */
export const STEPS: readonly ResyncStep[] = [
  { atOnce: 16, rest: 0, leastRestMs: 0 },
  { atOnce: 8, rest: 0, leastRestMs: 0 },
  { atOnce: 4, rest: 0, leastRestMs: 0 },
  { atOnce: 2, rest: 0, leastRestMs: 0 },
  { atOnce: 1, rest: 0, leastRestMs: 0 },
  { atOnce: 1, rest: 1, leastRestMs: 2 },
  { atOnce: 1, rest: 3, leastRestMs: 8 },
  { atOnce: 1, rest: 7, leastRestMs: 32 },
];

/** Where it begins beside guests: what their requests take is learned before much is asked of the disk. */
export const FIRST_STEP = 4;

/** From one look at the guests to the next, ms. */
export const LOOK_MS = 100;

/** Guests that have asked for nothing for so long are not there, ms. */
export const IDLE_MS = 1000;

/** How long a step must be calm before the next faster one is tried; doubled, up to the most, when that was too fast, ms. */
const CALM_MS = 300;
const MOST_CALM_MS = 10_000;

/** Judgements in a row that it takes to change the step: one may be chance. */
const IN_A_ROW = 2;

/** Pressure that can't be chance. */
const MUCH = 2;

/** A faster step was too fast when pressure shows within so many judgements of it. */
const TRIAL = 4;

export class ResyncSteps {
  #step = FIRST_STEP;
  #calmSinceMs = 0;
  #calmInARow = 0;
  #pressedInARow = 0;
  #calmNeededMs = CALM_MS;
  /** Judgements that are left of the trial of a faster step. */
  #trialLeft = 0;
  #lookedAtMs = 0;
  #guestsAtMs = Number.NEGATIVE_INFINITY;
  #requestsSeen = 0;

  get step(): ResyncStep {
    return STEPS[this.#step]!;
  }

  /** Whether guests have used any of the disks lately. */
  areThere(nowMs: number): boolean {
    return nowMs - this.#guestsAtMs < IDLE_MS;
  }

  /** Begins anew: nothing is known of guests but what they show from here on. */
  restart(nowMs: number, loads: Iterable<GuestLoad>): void {
    this.#step = FIRST_STEP;
    this.#calmNeededMs = CALM_MS;
    this.#trialLeft = 0;
    this.#lookedAtMs = nowMs;
    this.#guestsAtMs = Number.NEGATIVE_INFINITY;
    this.#requestsSeen = requestsOf(loads);
    this.#judgedNothing(nowMs);
  }

  /** @returns whether guests have come that were not there at the last look */
  look(nowMs: number, loads: Iterable<GuestLoad>): boolean {
    if (nowMs - this.#lookedAtMs < LOOK_MS) return false;
    this.#lookedAtMs = nowMs;
    const requests = requestsOf(loads);
    const isActive = requests > this.#requestsSeen || isAnyInFlight(loads);
    this.#requestsSeen = requests;
    const wereThere = this.areThere(nowMs);
    if (isActive) this.#guestsAtMs = nowMs;
    if (!isActive) {
      if (!wereThere) this.#to(0, nowMs, loads);
      return false;
    }
    if (!wereThere) this.#to(Math.max(this.#step, FIRST_STEP), nowMs, loads);
    else this.#judge(pressureOf(loads, nowMs), nowMs, loads);
    return !wereThere;
  }

  #judge(pressure: number | undefined, nowMs: number, loads: Iterable<GuestLoad>): void {
    if (pressure === undefined) return;
    for (const load of loads) load.restart();
    if (pressure > 1) {
      this.#calmInARow = 0;
      this.#calmSinceMs = nowMs;
      this.#pressedInARow += 1;
      if (this.#pressedInARow >= IN_A_ROW || pressure >= MUCH) this.#slower(nowMs, loads);
      return;
    }
    this.#pressedInARow = 0;
    this.#calmInARow += 1;
    if (this.#trialLeft > 0) {
      this.#trialLeft -= 1;
      if (this.#trialLeft === 0) this.#calmNeededMs = CALM_MS;
    }
    const isCalm = this.#calmInARow >= IN_A_ROW && nowMs - this.#calmSinceMs >= this.#calmNeededMs;
    if (!isCalm || this.#step === 0) return;
    this.#to(this.#step - 1, nowMs, loads);
    this.#trialLeft = TRIAL;
  }

  #slower(nowMs: number, loads: Iterable<GuestLoad>): void {
    if (this.#trialLeft > 0) this.#calmNeededMs = Math.min(MOST_CALM_MS, 2 * this.#calmNeededMs);
    this.#to(Math.min(STEPS.length - 1, this.#step + 1), nowMs, loads);
  }

  #to(step: number, nowMs: number, loads: Iterable<GuestLoad>): void {
    this.#step = step;
    this.#trialLeft = 0;
    this.#judgedNothing(nowMs);
    for (const load of loads) load.restart();
  }

  #judgedNothing(nowMs: number): void {
    this.#calmSinceMs = nowMs;
    this.#calmInARow = 0;
    this.#pressedInARow = 0;
  }
}

function requestsOf(loads: Iterable<GuestLoad>): number {
  let requests = 0;
  for (const load of loads) requests += load.requests;
  return requests;
}

function isAnyInFlight(loads: Iterable<GuestLoad>): boolean {
  for (const load of loads) if (load.inFlight > 0) return true;
  return false;
}

/** The disk that suffers most speaks for all: they may be one piece of hardware. */
function pressureOf(loads: Iterable<GuestLoad>, nowMs: number): number | undefined {
  return maxKnown(Array.from(loads, (load) => load.pressure(nowMs)));
}
