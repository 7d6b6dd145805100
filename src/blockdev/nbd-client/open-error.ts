// Says why an NBD export could not be opened, and what to do about it.
import { errorCode, OperationError } from '../../base/errors.ts';
import { HandshakeError, type HandshakeErrorKind } from '../../nbdwire/client-error.ts';
import { type NbdAddress, secureForm } from '../nbd-uri.ts';
import { lossMessage } from './connection.ts';

const HANDSHAKE_HINTS: Readonly<Record<HandshakeErrorKind, string | undefined>> = {
  'not-nbd': 'check host and port: something else may listen there',
  'unknown-export': 'list the exports with: nbdinfo --list URI',
  'tls-required': 'name it with TLS: SECURE_FORM',
  'tls-refused': 'give the server its certificates or keys, or check who answers there',
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
  const hint = hintFor(first);
  return new OperationError(`${address.uri}: ${lossMessage(cause)}`, {
    cause,
    ...(hint === undefined
      ? {}
      : { hint: hint.replace('SECURE_FORM', secureForm(address.uri)).replace('URI', address.uri) }),
  });
}

function hintFor(cause: unknown): string | undefined {
  if (cause instanceof HandshakeError) return HANDSHAKE_HINTS[cause.kind];
  if (cause instanceof OperationError) return cause.hint;
  return SYSTEM_HINTS[errorCode(cause) ?? ''];
}
