// How long to wait between attempts to reach a server: doubling, with jitter, so that many clients of one server
// that comes back don't arrive together.

export interface BackoffOptions {
  /** Pause before the second attempt, milliseconds; the first comes at once. */
  readonly firstMs: number;
  /** Longest pause, milliseconds. */
  readonly maxMs: number;
}

export const DEFAULT_BACKOFF: BackoffOptions = { firstMs: 50, maxMs: 2000 };

/**
 * The pause before an attempt, milliseconds.
 * @param attempt how many failed in a row since the server last answered; 0 dials at once
 * @param random in [0, 1)
 */
export function backoffMs(attempt: number, options: BackoffOptions, random: number): number {
  if (attempt === 0) return 0;
  const full = Math.min(options.maxMs, options.firstMs * 2 ** Math.min(attempt - 1, 30));
  return full * (0.5 + random / 2);
}
