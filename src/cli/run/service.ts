// The life of a process that serves: start step by step, run until asked to stop, stop in reverse order. When a step
// fails or a signal comes half-way, what was started is stopped all the same.
import { sharedPool } from '../../base/buffer-pool.ts';
import { Stopper } from '../../base/lifecycle.ts';
import type { Logger } from '../../base/log.ts';
import { loadNativeCalls } from '../../base/native-calls.ts';
import { startTrimming } from '../../base/slab-trim.ts';
import { type StopSignal, watchSignals } from './signals.ts';

export interface Startup {
  /**
   * Waits for one step of the start and registers how to undo it, before anything else can go wrong.
   * @param name what it is, for the error when stopping fails
   * @throws an internal mark when a signal came meanwhile
   */
  step<T>(name: string, what: Promise<T>, stop?: (value: T) => Promise<void> | void): Promise<T>;
}

export interface ServiceOptions {
  readonly logger: Logger;
  start(startup: Startup): Promise<Running>;
  /** What asks it to stop; the signals SIGINT and SIGTERM unless given. */
  readonly stop?: StopRequest | undefined;
}

export interface StopRequest {
  /** Resolves when it is to stop; with the signal, if that was one. */
  readonly requested: Promise<StopSignal | undefined>;
  isReceived(): boolean;
}

/** A service that has started. */
export interface Running {
  /** Ends the service when it settles; without it the service runs until a signal. */
  readonly finished?: Promise<void> | undefined;
}

/** A signal came before the start was complete. */
class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/**
 * Runs a service to its end.
 * @returns the exit status: 0 when it stopped cleanly, 1 when stopping failed
 * @throws whatever `start`, or the promise it returned, failed with
 */
export async function runService(options: ServiceOptions): Promise<number> {
  const { logger, start } = options;
  const stopper = new Stopper();
  const signals = options.stop ? undefined : watchSignals();
  const asked = options.stop ?? {
    requested: signals!.requested,
    isReceived: () => signals!.received !== undefined,
  };
  const stopTrimming = startTrimming(sharedPool, loadNativeCalls());
  const step: Startup['step'] = async (name, what, stop) => {
    const value = await what;
    if (stop) stopper.add(name, () => stop(value));
    if (asked.isReceived()) throw new Interrupted();
    return value;
  };
  let clean = false;
  try {
    const { finished } = await start({ step });
    const signal = await Promise.race(finished ? [asked.requested, finished] : [asked.requested]);
    if (signal) logger.info({ signal }, 'stopping; a second signal exits at once');
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
  } finally {
    clean = await stopAll(stopper, logger);
    stopTrimming();
    signals?.dispose();
  }
  return clean ? 0 : 1;
}

async function stopAll(stopper: Stopper, logger: Logger): Promise<boolean> {
  try {
    await stopper.close();
    return true;
  } catch (error) {
    for (const one of error instanceof AggregateError ? error.errors : [error]) {
      logger.error({ err: one as unknown }, 'stopping failed');
    }
    return false;
  }
}
