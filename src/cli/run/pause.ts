// A pause that a signal ends early and that leaves no timer behind.
import { setTimeout as sleep } from 'node:timers/promises';

/** Waits `ms` milliseconds, or until `interrupted` is aborted; neither is an error. */
export async function pause(ms: number, interrupted?: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, interrupted ? { signal: interrupted } : {});
  } catch (error) {
    if (!interrupted?.aborted) throw error;
  }
}
