// A pause on the global timers, which tests may replace.
/** Resolves after `delayMs` milliseconds; nothing ends it before. */
export function sleep(delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, delayMs);
  });
}
