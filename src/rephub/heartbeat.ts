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

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #timer: NodeJS.Timeout;
  #heardAtMs = performance.now();
  #held = false;
  #suspect = false;
  #token = 0n;
  #sentUs = 0;
  #samples: Array<{ readonly roundTripUs: number; readonly offsetUs: number }> = [];

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#beat(), options.intervalMs);
    this.#ping();
  }

  /** The agent's clock minus this one, microseconds; null until it answered once. */
  get clockOffsetUs(): number | null {
    let best: { readonly roundTripUs: number; readonly offsetUs: number } | undefined;
    for (const sample of this.#samples) {
      if (!best || sample.roundTripUs < best.roundTripUs) best = sample;
    }
    return best?.offsetUs ?? null;
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
    this.#samples.push({ roundTripUs, offsetUs });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  stop(): void {
    clearInterval(this.#timer);
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
