// Overlapping changes take effect in the order of arrival; others don't wait for each other. While everything is
// answered at once nothing is ever registered, so the synchronous path pays one comparison.
import { isPromise, type MaybePromise } from '../base/maybe.ts';

interface Held {
  readonly start: number;
  readonly end: number;
  /** Resolves when the operation has ended, well or not. Never rejects. */
  readonly ended: Promise<void>;
}

export class RangeLock {
  readonly #held = new Set<Held>();

  /** How many operations are in flight or waiting. */
  get size(): number {
    return this.#held.size;
  }

  /** Whether an operation that has not ended overlaps [offset, offset + length). */
  overlaps(offset: number, length: number): boolean {
    for (const held of this.#held) {
      if (held.start < offset + length && offset < held.end) return true;
    }
    return false;
  }

  /**
   * Runs `operation` after every earlier one that overlaps [offset, offset + length) has ended.
   * Runs it synchronously when there is none. Lent buffers stay valid: a loan lasts until the answer.
   */
  run<T>(offset: number, length: number, operation: () => MaybePromise<T>): MaybePromise<T> {
    if (this.#held.size === 0 || !this.overlaps(offset, length)) {
      return this.track(offset, length, operation());
    }
    const result = this.#after(offset, length, operation);
    this.#register(offset, length, result);
    return result;
  }

  /**
   * Registers an operation that was started without waiting, which the caller may do while nothing overlaps.
   * Spares the hot path the closure that {@link run} takes. @returns `result` itself
   */
  track<T>(offset: number, length: number, result: MaybePromise<T>): MaybePromise<T> {
    if (isPromise(result)) this.#register(offset, length, result);
    return result;
  }

  /**
   * For whoever has to know that it saw no change halfway, without holding up any: resolves when every operation that
   * overlaps the range and is in flight or waiting now has ended. @returns undefined when there is none
   */
  ended(offset: number, length: number): Promise<void> | undefined {
    if (this.#held.size === 0 || !this.overlaps(offset, length)) return undefined;
    return this.#endOf(offset, length);
  }

  /** Resolves when everything that is in flight or waiting now has ended. */
  async drain(): Promise<void> {
    await Promise.all([...this.#held].map((held) => held.ended));
  }

  async #after<T>(offset: number, length: number, operation: () => MaybePromise<T>): Promise<T> {
    await this.#endOf(offset, length);
    return operation();
  }

  async #endOf(offset: number, length: number): Promise<void> {
    const before = [...this.#held].filter((held) => held.start < offset + length && offset < held.end);
    await Promise.all(before.map((held) => held.ended));
  }

  #register(offset: number, length: number, result: Promise<unknown>): void {
    const end = (): void => {
      this.#held.delete(held);
    };
    const held: Held = { start: offset, end: offset + length, ended: result.then(end, end) };
    this.#held.add(held);
  }
}
