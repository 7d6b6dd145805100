// Counts what is running, so that close() can wait for it. It never looks at how things end.

export class InFlight {
  #count = 0;
  readonly #waiting: Array<() => void> = [];
  readonly #ended = (): void => {
    this.#count -= 1;
    if (this.#count > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  };

  get count(): number {
    return this.#count;
  }

  /** Counts `work` until it ends. @returns `work` itself */
  track<T>(work: Promise<T>): Promise<T> {
    this.#count += 1;
    work.then(this.#ended, this.#ended);
    return work;
  }

  /** Resolves when nothing is running. */
  idle(): Promise<void> {
    if (this.#count === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
