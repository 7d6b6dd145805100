// Why the connection to an agent ended, in words.
import { AssertionError } from '../base/assert.ts';
import { errorCode, errorMessage } from '../base/errors.ts';
import { WireError } from '../wire/struct.ts';

export function describeEnd(reason: Error | undefined): string {
  if (!reason) return 'the agent ended the connection without saying goodbye';
  if (reason instanceof WireError) return `the agent broke the protocol: ${reason.message}`;
  if (errorCode(reason) !== undefined) return `the connection to the agent was lost: ${reason.message}`;
  return errorMessage(reason);
}

/** Not the peer's fault, but the hub's own: the process ends, since no replica can be trusted to it any more. */
export function endIfOurs(error: unknown): void {
  if (!(error instanceof AssertionError)) return;
  queueMicrotask(() => {
    throw error;
  });
}
