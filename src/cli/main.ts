#!/usr/bin/env node
// The `repagent` program: runs a command and turns what it throws into one line and an exit status.
// 0: done; 1: failed at run time; 2: used wrongly.
import { errorMessage, OperationError, UsageError } from '../base/errors.ts';
import { runProgram } from './program.ts';

/** A handle that something forgot must not keep a finished program alive. */
const LINGER_MS = 3000;

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // Whoever read our output has gone, as `head` does.
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  process.exitCode = await runProgram(process.argv.slice(2));
} catch (error) {
  process.exitCode = report(error);
}
setTimeout(() => process.exit(), LINGER_MS).unref();

function report(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`repagent: ${error.message}\n`);
    return 2;
  }
  if (error instanceof OperationError) {
    const hint = error.hint === undefined ? '' : `; ${error.hint}`;
    process.stderr.write(`repagent: ${error.message}${hint}\n`);
    return 1;
  }
  // Not foreseen, so the stack is worth more than a short line.
  const text = error instanceof Error ? (error.stack ?? error.message) : errorMessage(error);
  process.stderr.write(`repagent: unexpected failure: ${text}\n`);
  return 1;
}
