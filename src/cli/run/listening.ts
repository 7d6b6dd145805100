// The one line on standard output that scripts wait for, and the error when nothing can listen there.
import { errorCode, errorMessage, OperationError, UsageError } from '../../base/errors.ts';
import { formatHostPort, type ListenAddress } from '../parse-address.ts';

/** `nbd://127.0.0.1:10809`, or `nbd+unix:///?socket=/run/a.sock`. */
export function nbdUrl(address: ListenAddress): string {
  if (address.kind === 'tcp') return `nbd://${formatHostPort(address)}`;
  return `nbd+unix:///?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
}

/** Names joined by commas; what would break the line or the list is percent-encoded. */
export function exportList(names: readonly string[]): string {
  return names.map((name) => name.replace(/[%,\s]/gu, encodeURIComponent)).join(',');
}

/** Turns the platform's reason into one that says what to do. */
export function listenError(error: unknown, where: string): Error {
  if (error instanceof OperationError || error instanceof UsageError) return error;
  const code = errorCode(error);
  const cause = { cause: error };
  switch (code) {
    case 'EADDRINUSE':
      return new OperationError(`${where}: address in use`, {
        hint: 'choose another with --listen',
        ...cause,
      });
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new OperationError(`${where}: this machine has no such address`, {
        hint: 'choose one of its own with --listen',
        ...cause,
      });
    case 'EACCES':
      return new OperationError(`${where}: permission denied`, {
        hint: 'choose a port above 1023 or another directory with --listen',
        ...cause,
      });
    default:
      return new OperationError(`can't listen on ${where}: ${errorMessage(error)}`, {
        hint: 'choose another address with --listen',
        ...cause,
      });
  }
}
