// A program: the NBD server over a null disk of argv[2] bytes on loopback. Prints its port, and ends with SIGTERM.
import { silentLogger } from '../base/log.ts';
import { startNbdServer } from '../nbd/server.ts';
import { NullDevice } from './null-device.ts';

const server = await startNbdServer({
  exports: [{ name: 'disk', device: new NullDevice(Number(process.argv[2])) }],
  listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
  logger: silentLogger,
});
const [address] = server.addresses;
process.once('SIGTERM', () => void server.close());
process.stdout.write(`${address?.kind === 'tcp' ? address.port : 0}\n`);
