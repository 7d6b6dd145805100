// Carries requests of the hub out one after the other, a few at a time: when each may begin, the pace of the disks says.
import type { PacedQueue, PaceTurn, ResyncPace } from './resync-pace.ts';

export interface TurnQueueOptions<T> {
  /** Most that are under way at one time. */
  readonly atOnce: number;
  /** Shared with others that use the same disks. */
  readonly pace: ResyncPace;
  /** Bytes that the disk moves for a request at most. */
  readonly bytesOf: (request: T) => number;
  /** Carries one out, and ends its turn when it needs the disk no more. It must answer failures itself. */
  readonly run: (request: T, turn: PaceTurn) => Promise<void>;
  /** Told of what `run` rejected all the same. */
  readonly onFault: (error: unknown) => void;
}

export class TurnQueue<T> implements PacedQueue {
  readonly #options: TurnQueueOptions<T>;
  readonly #waiting: T[] = [];
  #active = 0;

  constructor(options: TurnQueueOptions<T>) {
    this.#options = options;
  }

  push(request: T): void {
    this.#waiting.push(request);
    this.#ask();
  }

  /** Takes out what has not been begun. */
  drop(): T[] {
    this.#options.pace.leave(this);
    return this.#waiting.splice(0);
  }

  beginNext(): boolean {
    const request = this.#waiting.shift();
    if (request !== undefined) void this.#run(request);
    return this.#wantsTurn;
  }

  get #wantsTurn(): boolean {
    return this.#waiting.length > 0 && this.#active < this.#options.atOnce;
  }

  #ask(): void {
    if (this.#wantsTurn) this.#options.pace.wants(this);
  }

  async #run(request: T): Promise<void> {
    const { pace, bytesOf, run, onFault } = this.#options;
    this.#active += 1;
    const turn = pace.begin(bytesOf(request));
    try {
      await run(request, turn);
    } catch (error) {
      onFault(error);
    } finally {
      this.#active -= 1;
      turn.end();
      this.#ask();
    }
  }
}
