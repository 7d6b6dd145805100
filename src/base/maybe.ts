// Values that may already be there. The hot path stays synchronous when the device answered at once;
// nothing here may turn a value into a promise.

export type MaybePromise<T> = T | Promise<T>;

/** Whether `value` is still pending. Devices only ever return native promises. */
export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return value instanceof Promise;
}

/**
 * Calls `next` with the value, now if it is there, else when it arrives. Not called `then`: a module that exports
 * that is taken for a promise by whoever imports it dynamically.
 */
export function andThen<T, U>(value: MaybePromise<T>, next: (value: T) => MaybePromise<U>): MaybePromise<U> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/**
 * Calls `start` and reports its outcome exactly once: `done` with the value or `failed` with the error,
 * synchronously when `start` finished synchronously. Errors thrown by `done` are not given to `failed`.
 */
export function settle<T>(
  start: () => MaybePromise<T>,
  done: (value: T) => void,
  failed: (error: unknown) => void,
): void {
  let result: MaybePromise<T>;
  try {
    result = start();
  } catch (error) {
    failed(error);
    return;
  }
  if (result instanceof Promise) result.then(done, failed);
  else done(result);
}
