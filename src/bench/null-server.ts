// A program: the NBD server over a null disk of argv[2] bytes on loopback, for TLS with the files in argv[3] where that is
// given. Prints its port, and ends with SIGTERM.
import { silentLogger } from '../base/log.ts';
import { startNbdServer } from '../nbd/server.ts';
import type { TlsOptions } from '../nbd/server-tls.ts';
import { loadServerCredentials } from '../transport/tls-credentials.ts';
import { NullDevice } from './null-device.ts';

const [, , sizeBytes, tlsDir] = process.argv;
const tls: TlsOptions | undefined =
  tlsDir === undefined
    ? undefined
    : { mode: 'require', verifyPeer: false, credentials: await loadServerCredentials({ dir: tlsDir }) };
const server = await startNbdServer({
  exports: [{ name: 'disk', device: new NullDevice(Number(sizeBytes)) }],
  listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
  ...{ tls, logger: silentLogger },
});
const [address] = server.addresses;
process.once('SIGTERM', () => void server.close());
process.stdout.write(`${address?.kind === 'tcp' ? address.port : 0}\n`);
