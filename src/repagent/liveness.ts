// Notices that a connection is dead though nobody said so: pings, and counts the beats in which nothing arrived. Beats,
// not a clock: if this process itself stood still, what arrived meanwhile gets a beat's time to be looked at.

export interface LivenessOptions {
  readonly intervalMs: number;
  /** Silence after which the connection is given up, ms. */
  readonly deadMs: number;
  readonly ping: () => void;
  readonly died: (silentMs: number) => void;
}

export class Liveness {
  readonly #options: LivenessOptions;
  readonly #timer: NodeJS.Timeout;
  readonly #silentBeatsAllowed: number;
  #silentBeats = 0;
  #heard = true;
  #held = false;

  constructor(options: LivenessOptions) {
    this.#options = options;
    this.#silentBeatsAllowed = Math.max(2, Math.ceil(options.deadMs / options.intervalMs));
    this.#timer = setInterval(this.#beat, options.intervalMs);
  }

  /** Bytes arrived. */
  heard(): void {
    this.#heard = true;
  }

  /** While held, nothing is read from the connection, so silence means nothing. */
  hold(held: boolean): void {
    this.#held = held;
    this.#heard = true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  readonly #beat = (): void => {
    if (this.#heard || this.#held) this.#silentBeats = 0;
    else this.#silentBeats += 1;
    this.#heard = false;
    if (this.#silentBeats < this.#silentBeatsAllowed) {
      this.#options.ping();
      return;
    }
    this.stop();
    this.#options.died(this.#silentBeats * this.#options.intervalMs);
  };
}
