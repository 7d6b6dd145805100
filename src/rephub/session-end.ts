// Why the connection to an agent ended, in words.
import { errorCode, errorMessage } from '../base/errors.ts';
import { WireError } from '../wire/struct.ts';

export function describeEnd(reason: Error | undefined): string {
  if (!reason) return 'the agent ended the connection without saying goodbye';
  if (reason instanceof WireError) return `the agent broke the protocol: ${reason.message}`;
  if (errorCode(reason) !== undefined) return `the connection to the agent was lost: ${reason.message}`;
  return errorMessage(reason);
}

/** For what must end the process. */
export function rethrow(error: Error): never {
  throw error;
}
