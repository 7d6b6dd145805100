// Certificates and keys for one test file, made with openssl and psktool while the test runs: none is ever committed.
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { runPeerOk } from './peers.ts';

export type TlsSide = 'server' | 'client';

export interface IssueOptions {
  /** Common name; also a DNS name unless `altNames` says otherwise. */
  readonly name: string;
  /** As in `DNS:localhost,IP:127.0.0.1`; '' for none. */
  readonly altNames?: string;
  /** Of validity; -1 makes an expired one. */
  readonly days?: number;
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

/** A certificate authority that lives in a folder of its own. */
export class TestCa {
  readonly #dir: string;

  private constructor(dir: string) {
    this.#dir = dir;
  }

  static async create(dir: string, name = 'Test CA'): Promise<TestCa> {
    mkdirSync(dir, { recursive: true });
    const files = ['-keyout', join(dir, 'ca-key.pem'), '-out', join(dir, 'ca-cert.pem')];
    await openssl(['req', '-x509', ...NEW_KEY, '-days', '30', '-subj', `/CN=${name}`, ...files]);
    return new TestCa(dir);
  }

  /** Makes `dir` a tls-dir: ca-cert.pem, and certificate and key of one side. @returns `dir` */
  async issue(dir: string, side: TlsSide, options: IssueOptions): Promise<string> {
    const { name, altNames = `DNS:${name}`, days = 30 } = options;
    mkdirSync(dir, { recursive: true });
    copyFileSync(join(this.#dir, 'ca-cert.pem'), join(dir, 'ca-cert.pem'));
    const request = await openssl([
      ...['req', '-new', ...NEW_KEY, '-subj', `/CN=${name}`],
      ...(altNames === '' ? [] : ['-addext', `subjectAltName=${altNames}`]),
      ...['-addext', `extendedKeyUsage=${side}Auth`, '-keyout', join(dir, `${side}-key.pem`)],
    ]);
    await openssl(
      [
        ...['x509', '-req', '-copy_extensions', 'copy', '-days', String(days)],
        ...['-CA', join(this.#dir, 'ca-cert.pem'), '-CAkey', join(this.#dir, 'ca-key.pem')],
        ...['-out', join(dir, `${side}-cert.pem`)],
      ],
      request,
    );
    return dir;
  }
}

/** Adds a random key of `user` to `file`. @returns `file` */
export async function addPskUser(file: string, user: string): Promise<string> {
  await runPeerOk('psktool', ['-u', user, '-p', file]);
  return file;
}

function openssl(args: readonly string[], input?: string): Promise<string> {
  return runPeerOk('openssl', args, input === undefined ? {} : { input });
}
