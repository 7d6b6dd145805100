// The one line on standard output that scripts wait for, and the error when nothing can listen there.
import { errorCode, errorMessage, OperationError } from '../../base/errors.ts';
import { formatHostPort, type ListenAddress } from '../parse-address.ts';

/**
 * `nbd://127.0.0.1:10809`, or `nbd+unix:///?socket=/run/a.sock`.
 * @param needsTls `nbds` instead of `nbd`: clients must use TLS
 */
export function nbdUrl(address: ListenAddress, needsTls = false): string {
  const scheme = needsTls ? 'nbds' : 'nbd';
  if (address.kind === 'tcp') return `${scheme}://${formatHostPort(address)}`;
  return `${scheme}+unix:///?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
}

/** Names joined by commas; what would break the line or the list is percent-encoded. */
export function exportList(names: readonly string[]): string {
  return names.map((name) => name.replace(/[%,\s]/gu, encodeURIComponent)).join(',');
}

/** Says which option helps when an address is in use; every other error says enough itself. */
export function listenError(error: unknown): unknown {
  const platform = errorCode(error) === undefined && error instanceof Error ? error.cause : error;
  if (errorCode(platform) !== 'EADDRINUSE') return error;
  const { address, port } = platform as { address?: string; port?: number };
  const where =
    address !== undefined && port !== undefined && port > 0
      ? formatHostPort({ host: address, port })
      : address;
  return new OperationError(`address in use: ${where ?? errorMessage(error)}`, {
    hint: 'choose another with --listen',
    cause: error,
  });
}
