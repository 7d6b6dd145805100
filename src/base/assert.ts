// Checks for programmer errors. They are always on; operational failures use the typed errors of errors.ts.

/** Thrown when the program itself is wrong. Never caught to continue: the state can no longer be trusted. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/**
 * Throws {@link AssertionError} with `message` unless `condition` holds. The message is made either way: where it is put
 * together and the check is on a hot path, `if (...) fail(...)` costs nothing while all is well.
 */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Throws {@link AssertionError}. */
export function fail(message: string): never {
  throw new AssertionError(message);
}

/** Marks a branch the type system proves empty, so that a new union member fails to compile where it is missing. */
export function unreachable(value: never, what = 'value'): never {
  throw new AssertionError(`unexpected ${what}: ${String(value)}`);
}
