// Carries requests of the hub out a few per turn of the event loop, so that guests go first, and a few at a time, so
// that they don't crowd the device.

export interface TurnQueueOptions<T> {
  /** Most that are begun in one turn. */
  readonly perTurn: number;
  /** Most that are under way at one time. */
  readonly atOnce: number;
  /** Carries one out. It must answer failures itself. */
  readonly run: (request: T) => Promise<void>;
  /** Told of what `run` rejected all the same. */
  readonly onFault: (error: unknown) => void;
}

export class TurnQueue<T> {
  readonly #options: TurnQueueOptions<T>;
  readonly #waiting: T[] = [];
  #active = 0;
  #scheduled = false;

  constructor(options: TurnQueueOptions<T>) {
    this.#options = options;
  }

  push(request: T): void {
    this.#waiting.push(request);
    this.#schedule();
  }

  /** Takes out what has not been begun. */
  drop(): T[] {
    return this.#waiting.splice(0);
  }

  #schedule(): void {
    if (this.#scheduled || this.#waiting.length === 0 || this.#active >= this.#options.atOnce) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#scheduled = false;
    const { perTurn, atOnce } = this.#options;
    for (let begun = 0; begun < perTurn && this.#active < atOnce; begun += 1) {
      const request = this.#waiting.shift();
      if (request === undefined) return;
      void this.#run(request);
    }
    this.#schedule();
  };

  async #run(request: T): Promise<void> {
    this.#active += 1;
    try {
      await this.#options.run(request);
    } catch (error) {
      this.#options.onFault(error);
    } finally {
      this.#active -= 1;
      this.#schedule();
    }
  }
}
