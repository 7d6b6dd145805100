// fio as the client of servers, with TLS or without. fio gives libnbd a URI and nothing else, and libnbd opens no file that
// a URI names: whom it trusts must lie where it looks by itself, in its user's home; of root it looks in /etc only. So
// with TLS fio has a home in the bench's folder, and if the bench is run by root, fio is not.
import { chmodSync, copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Children } from './children.ts';

/** Where libnbd looks for ca-cert.pem, below its user's home. */
const CERTIFICATES = join('.pki', 'libnbd');
/** `nobody`, who owns nothing. */
const OTHER_USER_ID = 65534;

export interface FioClient {
  /** @returns what it printed @throws OperationError with its last words unless it ends well and in time */
  run(args: readonly string[], timeoutMs: number): Promise<string>;
}

export function plainFioClient(children: Children): FioClient {
  return { run: (args, timeoutMs) => children.run('fio', args, timeoutMs) };
}

/** @param home a folder to make @param tlsDir with what a client proves itself with, and trusts */
export function tlsFioClient(children: Children, home: string, tlsDir: string): FioClient {
  const folder = join(home, CERTIFICATES);
  mkdirSync(folder, { recursive: true });
  // A umask may have taken from others what fio needs; who else there is can't come so far.
  for (const path of [home, join(home, '.pki'), folder]) chmodSync(path, 0o755);
  for (const name of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) {
    copyFileSync(join(tlsDir, name), join(folder, name));
    chmodSync(join(folder, name), 0o644);
  }
  // Not by its path, because the folders above it are closed to others.
  const settings = { cwd: home, env: { HOME: '.' } };
  const user = process.getuid?.() === 0 ? { userId: OTHER_USER_ID } : {};
  return { run: (args, timeoutMs) => children.run('fio', args, timeoutMs, { ...settings, ...user }) };
}
