// Says why an NBD export could not be opened, and what to do about it.
import { errorCode, OperationError } from '../../base/errors.ts';
import { HandshakeError, type HandshakeErrorKind } from '../../nbdwire/client-error.ts';
import type { NbdAddress } from '../nbd-uri.ts';
import { lossMessage } from './connection.ts';

const HANDSHAKE_HINTS: Readonly<Record<HandshakeErrorKind, string | undefined>> = {
  'not-nbd': 'check host and port: something else may listen there',
  'unknown-export': 'list the exports with: nbdinfo --list URI',
  'tls-required': 'let the server listen without TLS, on a network you trust',
  'shutting-down': 'try again once it is up',
  refused: "see the server's log",
  unsuitable: undefined,
  protocol: undefined,
};

const SYSTEM_HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there: start the server, or correct the address',
  ENOENT: 'there is no such socket: start the server, or correct the path',
  EACCES: 'this user may not connect to the socket: change its permissions',
  ENOTFOUND: 'the host name is not known: correct it',
  EAI_AGAIN: 'the host name could not be looked up: try again',
  EHOSTUNREACH: 'there is no route to the host',
  ENETUNREACH: 'there is no route to the host',
};

/** The error that a user sees when the first attempt to reach `address` failed with `cause`. */
export function openError(address: NbdAddress, cause: Error): OperationError {
  const first: unknown = cause instanceof AggregateError ? cause.errors[0] : cause;
  const hint =
    first instanceof HandshakeError ? HANDSHAKE_HINTS[first.kind] : SYSTEM_HINTS[errorCode(first) ?? ''];
  return new OperationError(`${address.uri}: ${lossMessage(cause)}`, {
    cause,
    ...(hint === undefined ? {} : { hint: hint.replace('URI', address.uri) }),
  });
}
