// SIGINT and SIGTERM: the first only sets a state that the program looks at, the second ends the process at once.

export const STOP_SIGNALS = ['SIGINT', 'SIGTERM'] as const;
export type StopSignal = (typeof STOP_SIGNALS)[number];

const EXIT_CODES: Readonly<Record<StopSignal, number>> = { SIGINT: 130, SIGTERM: 143 };

export interface SignalWatch {
  /** The first signal, once it has come. */
  readonly received: StopSignal | undefined;
  /** Resolves with the first signal. Never rejects. */
  readonly requested: Promise<StopSignal>;
  /** Aborted by the first signal. */
  readonly aborted: AbortSignal;
  /** Gives the signals back to their default meaning. */
  dispose(): void;
}

/**
 * Watches for the signals that ask to stop.
 * @param onSecond replaces the immediate exit, for tests and for cleaning up what can be cleaned synchronously
 */
export function watchSignals(
  onSecond: (exitCode: number) => void = (code) => process.exit(code),
): SignalWatch {
  let received: StopSignal | undefined;
  const abort = new AbortController();
  let resolve!: (signal: StopSignal) => void;
  const requested = new Promise<StopSignal>((ok) => {
    resolve = ok;
  });
  const listener = (signal: NodeJS.Signals): void => {
    const stop = signal as StopSignal;
    if (received !== undefined) {
      onSecond(EXIT_CODES[stop]);
      return;
    }
    received = stop;
    resolve(stop);
    abort.abort();
  };
  for (const signal of STOP_SIGNALS) process.on(signal, listener);
  return {
    get received() {
      return received;
    },
    requested,
    aborted: abort.signal,
    dispose: () => {
      for (const signal of STOP_SIGNALS) process.off(signal, listener);
    },
  };
}
