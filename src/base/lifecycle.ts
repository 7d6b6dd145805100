// What starts can stop: in reverse order, once, waiting for what is in flight.

/** Something that can be shut. `close` is idempotent: later calls return the first call's promise. */
export interface Closeable {
  close(): Promise<void>;
}

/** A promise with its two ends in hand. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: unknown): void;
}

export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((ok, fail) => {
    resolve = ok;
    reject = fail;
  });
  return { promise, resolve, reject };
}

/** Collects what was started and stops it in reverse order. A failing stop doesn't keep the others from stopping. */
export class Stopper implements Closeable {
  readonly #stops: Array<{ name: string; stop: () => Promise<void> | void }> = [];
  #closing: Promise<void> | undefined;

  /** Registers `stop`, to run before everything registered earlier. */
  add(name: string, stop: () => Promise<void> | void): void {
    this.#stops.push({ name, stop });
  }

  /** Runs every stop. @throws AggregateError naming the stops that failed, after all have run */
  close(): Promise<void> {
    this.#closing ??= this.#run();
    return this.#closing;
  }

  async #run(): Promise<void> {
    const errors: Error[] = [];
    for (let entry = this.#stops.pop(); entry; entry = this.#stops.pop()) {
      try {
        await entry.stop();
      } catch (error) {
        errors.push(new Error(`stopping ${entry.name} failed`, { cause: error }));
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, errors.map((e) => e.message).join('; '));
  }
}

/**
 * Waits for `promise` at most `timeoutMs`.
 * @returns its value, or `undefined` when the time was up first; its error is passed on
 */
export async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
