// Waits for a condition with a deadline, so that tests never sleep for a guessed time.

export interface WaitOptions {
  /** Milliseconds; 10 s unless told. */
  readonly timeoutMs?: number;
  /** What is waited for, as the error tells it. */
  readonly what?: string;
  /** Milliseconds between two looks. */
  readonly intervalMs?: number;
}

/** Resolves with the first truthy value of `condition`. @throws Error naming `what` when the time is up */
export async function waitUntil<T>(
  condition: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<NonNullable<T>> {
  const { timeoutMs = 10_000, what = 'the condition', intervalMs = 10 } = options;
  const endsAt = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > endsAt) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}
