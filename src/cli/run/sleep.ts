// A sleep that a signal ends early and that leaves no timer behind.
import { setTimeout as delay } from 'node:timers/promises';

/** Waits `ms` milliseconds, or until `interrupted` is aborted; neither is an error. */
export async function sleep(ms: number, interrupted?: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, interrupted ? { signal: interrupted } : {});
  } catch (error) {
    if (!interrupted?.aborted) throw error;
  }
}
