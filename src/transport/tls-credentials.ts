// What each side of a TLS connection proves itself with, and what it trusts: a directory with the file names of
// qemu, nbdkit and libnbd, or a file of pre-shared keys. Everything is read and checked once; nothing is read later.
import { constants, type X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import {
  type ConnectionOptions,
  createSecureContext,
  type SecureContext,
  type SecureContextOptions,
} from 'node:tls';
import { errorMessage, OperationError, UsageError } from '../base/errors.ts';
import {
  type CertificateFile,
  checkTlsDir,
  exists,
  type KeyFile,
  readCertificates,
  readKey,
  readSecret,
} from './tls-files.ts';
import { type PskKeys, readPskFile } from './tls-psk.ts';
import { cipherSuites, TLS_MIN_VERSION } from './tls-suites.ts';

/** Where credentials come from; at least one. */
export interface TlsFiles {
  /** Directory with ca-cert.pem and this side's certificate and key; ca-crl.pem is used when it is there. */
  readonly dir?: string | undefined;
  /** psktool's file. */
  readonly pskFile?: string | undefined;
}

export interface ServerCredentials {
  readonly secureContext: SecureContext;
  /** Whether clients may prove themselves by certificates. */
  readonly certificates: boolean;
  readonly keys: PskKeys | undefined;
  /** What an operator should know, though it works: an expired certificate, a key that everybody may read. */
  readonly warnings: readonly string[];
}

export interface ClientTlsFiles extends TlsFiles {
  /** Which of the keys in `pskFile` is ours; needed when it holds several. */
  readonly pskUser?: string | undefined;
}

export interface ClientCredentials {
  /** What `tls.connect` takes, without the socket and the host's name. Always verifies the server. */
  readonly options: ConnectionOptions;
  /** Whether the server proves itself by a certificate, so that its name must be checked. */
  readonly certificates: boolean;
  readonly warnings: readonly string[];
}

/**
 * Loads what a server needs: ca-cert.pem, server-cert.pem and server-key.pem, pre-shared keys, or both.
 * @throws OperationError naming the file, what is wrong, and the command that makes it
 */
export async function loadServerCredentials(files: TlsFiles): Promise<ServerCredentials> {
  checkFiles(files);
  const x509 = files.dir === undefined ? undefined : await loadX509(files.dir, 'server');
  const psk = files.pskFile === undefined ? undefined : await readPskFile(files.pskFile);
  const secureContext = makeContext({
    ...contextOptions(x509, psk !== undefined),
    // For the suites with pre-shared keys that know no elliptic curves.
    ...(psk && { dhparam: 'auto' }),
    // OpenSSL counts a pre-shared key of TLS 1.3 as a session, and wants to know whose.
    sessionIdContext: 'repagent',
    // A ticket would let a client in again whose key or certificate was taken off the list meanwhile.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  });
  return {
    secureContext,
    certificates: x509 !== undefined,
    keys: psk?.keys,
    warnings: [...(x509?.warnings ?? []), ...(psk?.warnings ?? [])],
  };
}

/**
 * Loads what a client needs: ca-cert.pem and, when the server asks for one, client-cert.pem and client-key.pem; or
 * a pre-shared key. Not both: a client has to know what to expect.
 * @throws OperationError naming the file, what is wrong, and the command that makes it
 * @throws UsageError when both are given, or neither
 */
export async function loadClientCredentials(files: ClientTlsFiles): Promise<ClientCredentials> {
  checkFiles(files);
  if (files.dir !== undefined && files.pskFile !== undefined) {
    throw new UsageError('TLS to a server: give a directory of certificates or a file of keys, not both');
  }
  if (files.pskFile !== undefined) return loadClientPsk(files.pskFile, files.pskUser);
  const { warnings, ...x509 } = await loadX509(files.dir!, 'client');
  const secureContext = makeContext(contextOptions({ ...x509, warnings }, false));
  return { options: { secureContext, rejectUnauthorized: true }, certificates: true, warnings };
}

async function loadClientPsk(path: string, wanted: string | undefined): Promise<ClientCredentials> {
  const { keys, warnings } = await readPskFile(path);
  const users = [...keys.keys()];
  const user = wanted ?? (users.length === 1 ? users[0] : undefined);
  const psk = user === undefined ? undefined : keys.get(user);
  if (user === undefined || psk === undefined) {
    const what = wanted === undefined ? 'holds several keys' : `holds no key of ${JSON.stringify(wanted)}`;
    throw new OperationError(`${path} ${what}`, {
      hint: `name one of its users: ${users.slice(0, 8).join(', ')}${users.length > 8 ? ', ...' : ''}`,
    });
  }
  const options: ConnectionOptions = {
    // No CA at all: a server that shows a certificate instead of knowing the key is refused.
    secureContext: makeContext({ ...contextOptions(undefined, true), ca: [] }),
    rejectUnauthorized: true,
    // Without a certificate it was the key: no suite that is allowed here is anonymous.
    checkServerIdentity: (_name, certificate) =>
      Object.keys(certificate).length === 0
        ? undefined
        : new Error('the server proved itself by a certificate, not by the shared key'),
    pskCallback: () => ({ identity: user, psk }),
  };
  return { options, certificates: false, warnings };
}

function checkFiles({ dir, pskFile }: TlsFiles): void {
  if (dir === undefined && pskFile === undefined) {
    throw new UsageError('TLS needs a directory of certificates or a file of pre-shared keys');
  }
}

interface X509Files {
  readonly ca: CertificateFile;
  readonly cert: CertificateFile | undefined;
  readonly key: KeyFile | undefined;
  readonly crl: string | undefined;
  readonly warnings: readonly string[];
}

/** @throws OperationError for what OpenSSL alone finds wrong, such as a key that is too short */
function makeContext(options: SecureContextOptions): SecureContext {
  try {
    return createSecureContext(options);
  } catch (error) {
    throw new OperationError(`the TLS files can't be used: ${errorMessage(error)}`, { cause: error });
  }
}

function contextOptions(x509: X509Files | undefined, psk: boolean): SecureContextOptions {
  return {
    minVersion: TLS_MIN_VERSION,
    ciphers: cipherSuites({ certificate: x509 !== undefined, psk }),
    honorCipherOrder: true,
    ...(x509 && { ca: x509.ca.certificates.map(String) }),
    ...(x509?.cert && { cert: x509.cert.text }),
    ...(x509?.key && { key: x509.key.text }),
    ...(x509?.crl !== undefined && { crl: x509.crl }),
  };
}

async function loadX509(dir: string, side: 'server' | 'client'): Promise<X509Files> {
  await checkTlsDir(dir);
  const ca = await readCertificates(
    dir,
    'ca-cert.pem',
    'copy the certificate of the CA there, or make one: openssl req -x509 -newkey ec -pkeyopt ' +
      `ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=NBD CA" -keyout ca-key.pem -out ${join(dir, 'ca-cert.pem')}`,
  );
  const certName = `${side}-cert.pem`;
  const keyName = `${side}-key.pem`;
  const crl = (await exists(join(dir, 'ca-crl.pem'))) ? await readCrl(dir) : undefined;
  // A server that asks for no certificate is content with a client that has none.
  const without =
    side === 'client' && !(await exists(join(dir, certName))) && !(await exists(join(dir, keyName)));
  if (without) return { ca, cert: undefined, key: undefined, crl, warnings: caWarnings(ca) };
  const howToMake = issueCommand(dir, side);
  const cert = await readCertificates(dir, certName, howToMake);
  const key = await readKey(dir, keyName, howToMake);
  if (!cert.certificates[0].checkPrivateKey(key.key)) {
    throw new OperationError(`${key.path} is not the key of ${cert.path}`, { hint: howToMake });
  }
  const warnings = [...caWarnings(ca), ...certificateWarnings(cert, ca)];
  if (key.isPublic) {
    warnings.push(`${key.path} can be read by every user of this machine: chmod o= ${key.path}`);
  }
  return { ca, cert, key, crl, warnings };
}

async function readCrl(dir: string): Promise<string> {
  const { path, text } = await readSecret(join(dir, 'ca-crl.pem'), '');
  try {
    createSecureContext({ crl: text });
  } catch (error) {
    throw new OperationError(`${path} holds no list of revoked certificates: ${errorMessage(error)}`, {
      hint: 'make it: certtool --generate-crl --load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem --outfile ca-crl.pem',
    });
  }
  return text;
}

/** One command that makes key and certificate from the key of a CA that openssl made (OpenSSL 3). */
function issueCommand(dir: string, side: 'server' | 'client'): string {
  const name = side === 'server' ? 'HOST' : 'NAME';
  return (
    `make both: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=${name} ` +
    `-addext subjectAltName=DNS:${name} -addext extendedKeyUsage=${side}Auth -keyout ${join(dir, `${side}-key.pem`)} ` +
    `| openssl x509 -req -copy_extensions copy -days 365 -CA ${join(dir, 'ca-cert.pem')} -CAkey ca-key.pem ` +
    `-out ${join(dir, `${side}-cert.pem`)}`
  );
}

function caWarnings(ca: CertificateFile): string[] {
  return ca.certificates.flatMap((certificate) => validityWarnings(ca.path, certificate));
}

function certificateWarnings(cert: CertificateFile, ca: CertificateFile): string[] {
  const [own, ...between] = cert.certificates;
  const warnings = validityWarnings(cert.path, own);
  if (!leadsTo(own, between, ca.certificates)) {
    warnings.push(`${cert.path} is not signed by ${ca.path}: who trusts only that CA will refuse it`);
  }
  return warnings;
}

function validityWarnings(path: string, { validFrom, validTo }: X509Certificate): string[] {
  const now = Date.now();
  if (Date.parse(validTo) < now) return [`${path} expired on ${validTo}: the other side will refuse it`];
  if (Date.parse(validFrom) > now) return [`${path} is not valid before ${validFrom}: is the clock right?`];
  return [];
}

/** Whether signatures lead from `own` to one of the CAs. */
function leadsTo(
  own: X509Certificate,
  between: readonly X509Certificate[],
  cas: readonly X509Certificate[],
): boolean {
  let current = own;
  for (let step = 0; step <= between.length; step += 1) {
    const signedBy = (one: X509Certificate): boolean =>
      current.checkIssued(one) && current.verify(one.publicKey);
    if (cas.some((ca) => ca.fingerprint256 === current.fingerprint256 || signedBy(ca))) return true;
    const next = between.find((one) => one !== current && signedBy(one));
    if (next === undefined) return false;
    current = next;
  }
  return false;
}
