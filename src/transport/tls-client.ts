// Turns a client's plain connection into a TLS one. The server is always verified: by its certificate and the name
// in it, or by the key that both share. There is no falling back to plain text.
import { isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { OperationError } from '../base/errors.ts';
import type { ClientCredentials } from './tls-credentials.ts';
import { tlsFailure } from './tls-errors.ts';

export interface TlsConnectOptions {
  /** Host name or address that the server's certificate must be for. Not asked of servers with a shared key. */
  readonly serverName: string;
  /** For the whole TLS handshake, milliseconds. */
  readonly timeoutMs: number;
}

/**
 * Takes over `socket`, on which the server has just answered STARTTLS with ACK, and shakes hands. The caller has
 * taken its listeners off, and has made sure that no byte came behind that ACK: it would be read as if it were secure.
 * @returns the secure socket, which owns `socket` from now on
 * @throws OperationError that says why; the socket is destroyed then
 */
export function connectTls(
  socket: Socket,
  credentials: ClientCredentials,
  options: TlsConnectOptions,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const secure = connect({ ...credentials.options, ...nameOptions(options.serverName), socket });
    const timer = setTimeout(
      () => fail(new OperationError(`the server did not finish TLS within ${options.timeoutMs} ms`)),
      options.timeoutMs,
    );
    const onError = (error: Error): void => fail(failure(error));
    const onClose = (): void => fail(new OperationError('the server closed the connection during TLS'));
    const done = (): void => {
      clearTimeout(timer);
      secure.off('error', onError).off('close', onClose).off('secureConnect', onSecure);
    };
    const fail = (error: OperationError): void => {
      done();
      secure.on('error', () => {});
      secure.destroy();
      reject(error);
    };
    const onSecure = (): void => {
      done();
      resolve(secure);
    };
    secure.on('error', onError).on('close', onClose).on('secureConnect', onSecure);
  });
}

function nameOptions(serverName: string): ConnectionOptions {
  // An address is compared with the certificate's, but must not be sent as a name.
  return isIP(serverName) === 0 ? { host: serverName, servername: serverName } : { host: serverName };
}

function failure(error: Error): OperationError {
  return new OperationError(tlsFailure(error, 'server'), { cause: error });
}
