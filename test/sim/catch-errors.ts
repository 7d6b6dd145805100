// Hears of what the code throws where nobody catches it, in place of the test runner.
const EVENTS = ['uncaughtException', 'unhandledRejection'] as const;

/** @returns how to stop */
export function catchErrors(caught: (error: unknown) => void): () => void {
  const names = EVENTS as readonly string[] as ReadonlyArray<'uncaughtException'>;
  const before = names.map((name) => [name, process.listeners(name)] as const);
  for (const name of names) {
    process.removeAllListeners(name);
    process.on(name, caught);
  }
  return () => {
    for (const [name, listeners] of before) {
      process.removeAllListeners(name);
      for (const one of listeners) process.on(name, one);
    }
  };
}
