// Makes a throw-away certificate authority with a server's and a client's certificate, under the file names that
// qemu-nbd, nbdkit, libnbd and we share. Nothing of it leaves the bench's folder.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Children } from './children.ts';

const TIMEOUT_MS = 30_000;
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** @returns the folder @throws OperationError when openssl can't */
export async function makeTlsDir(folder: string, children: Children): Promise<string> {
  mkdirSync(folder, { mode: 0o700 });
  const path = (name: string): string => join(folder, name);
  const openssl = (...args: string[]): Promise<string> => children.run('openssl', args, TIMEOUT_MS);
  await openssl(
    ...['req', '-x509', ...KEY, '-days', '2', '-subj', '/CN=repagent bench'],
    ...[
      '-addext',
      'keyUsage=critical,keyCertSign',
      '-keyout',
      path('ca-key.pem'),
      '-out',
      path('ca-cert.pem'),
    ],
  );
  for (const role of ['server', 'client']) {
    const extensions = path(`${role}.ext`);
    writeFileSync(extensions, `subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=${role}Auth\n`);
    const [key, request] = [path(`${role}-key.pem`), path(`${role}.csr`)];
    await openssl('req', ...KEY, '-subj', '/CN=localhost', '-keyout', key, '-out', request);
    await openssl(
      ...[
        'x509',
        '-req',
        '-days',
        '2',
        '-in',
        request,
        '-CA',
        path('ca-cert.pem'),
        '-CAkey',
        path('ca-key.pem'),
      ],
      ...['-CAcreateserial', '-extfile', extensions, '-out', path(`${role}-cert.pem`)],
    );
  }
  return folder;
}
