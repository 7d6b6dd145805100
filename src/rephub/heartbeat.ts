// Notices that a connection is dead though nobody said so, and estimates how far the agent's clock is off.
import { steadyUs } from '../base/steady-clock.ts';

export interface HeartbeatOptions {
  readonly intervalMs: number;
  /** Silence after which the connection is given up, ms. */
  readonly deadMs: number;
  readonly ping: (token: bigint, timeUs: number) => void;
  readonly died: () => void;
}

/** Samples among which the quickest counts: the quicker the answer, the better it tells the clock. */
const SAMPLES = 8;

/** How far clocks may part between two samples by running unevenly, microseconds. */
const DRIFT_US = 10_000;

interface Sample {
  readonly roundTripUs: number;
  readonly offsetUs: number;
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #timer: NodeJS.Timeout;
  #heardAtMs = performance.now();
  #held = false;
  #suspect = false;
  #token = 0n;
  #sentUs = 0;
  #samples: Sample[] = [];

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#beat(), options.intervalMs);
    this.#ping();
  }

  /** The agent's clock minus this one, microseconds; null until it answered once. */
  get clockOffsetUs(): number | null {
    return this.#best?.offsetUs ?? null;
  }

  /** Bytes arrived. */
  heard(): void {
    this.#heardAtMs = performance.now();
    this.#suspect = false;
  }

  /** While held, nothing is read from the connection, so silence means nothing. */
  hold(held: boolean): void {
    this.#held = held;
    this.heard();
  }

  pong(token: bigint, timeUs: number): void {
    if (token !== this.#token) return;
    const roundTripUs = steadyUs() - this.#sentUs;
    const offsetUs = timeUs - (this.#sentUs + Math.round(roundTripUs / 2));
    const best = this.#best;
    // Each is wrong by half of its round trip at most. What that can't explain: the agent's clock was set.
    const isExplained =
      !best || Math.abs(offsetUs - best.offsetUs) <= (roundTripUs + best.roundTripUs) / 2 + DRIFT_US;
    if (!isExplained) this.#samples = [];
    this.#samples.push({ roundTripUs, offsetUs });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  get #best(): Sample | undefined {
    let best: Sample | undefined;
    for (const sample of this.#samples) {
      if (!best || sample.roundTripUs < best.roundTripUs) best = sample;
    }
    return best;
  }

  #beat(): void {
    const silentMs = performance.now() - this.#heardAtMs;
    if (!this.#held && silentMs > this.#options.deadMs) {
      // If this process itself stood still, what arrived meanwhile has not been looked at: one more round.
      if (this.#suspect) {
        this.#options.died();
        return;
      }
      this.#suspect = true;
    }
    this.#ping();
  }

  #ping(): void {
    this.#token += 1n;
    this.#sentUs = steadyUs();
    this.#options.ping(this.#token, this.#sentUs);
  }
}
