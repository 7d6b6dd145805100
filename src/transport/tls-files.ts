// Reads the files that TLS needs, with errors that name the file, what is wrong with it, and the command that makes
// a good one. What it returns is in memory: a file that vanishes later disturbs nobody.
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';

/** Largest file that is read, bytes: room for a CA bundle, or for some ten thousand pre-shared keys. */
const MAX_FILE_BYTES = 1 * MiB;

const CERTIFICATE_PATTERN = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

/** A file's text, and who beside its owner may read it. */
export interface SecretFile {
  readonly path: string;
  readonly text: string;
  /** Every user of the machine may read it. */
  readonly isPublic: boolean;
}

/** Certificates of one file; the first is the owner's, the others lead to its CA. */
export interface CertificateFile {
  readonly path: string;
  readonly text: string;
  readonly certificates: readonly [X509Certificate, ...X509Certificate[]];
}

export interface KeyFile extends SecretFile {
  readonly key: KeyObject;
}

/** @throws OperationError unless `dir` is a directory that can be looked into */
export async function checkTlsDir(dir: string): Promise<void> {
  let isDirectory: boolean;
  try {
    isDirectory = (await stat(dir)).isDirectory();
  } catch (error) {
    throw readError(dir, error, 'create it with the files that docs/TLS.md lists');
  }
  if (!isDirectory) {
    throw new OperationError(`${dir} is not a directory`, {
      hint: 'give the directory that holds ca-cert.pem; a file of pre-shared keys has an option of its own',
    });
  }
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    // Whatever else is wrong with it shows when it is read.
    return errorCode(error) !== 'ENOENT';
  }
}

/**
 * Reads a small text file.
 * @param howToMake a command, for the error when there is no such file
 * @throws OperationError
 */
export async function readSecret(path: string, howToMake: string): Promise<SecretFile> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const { size, mode } = await file.stat().then((stats) => {
      if (!stats.isFile()) throw new OperationError(`${path} is not a regular file`, { hint: howToMake });
      return stats;
    });
    if (size > MAX_FILE_BYTES) {
      throw new OperationError(`${path} has ${size} bytes; at most ${MAX_FILE_BYTES} are read`);
    }
    const text = await file.readFile('utf8');
    return { path, text, isPublic: (mode & 0o004) !== 0 };
  } catch (error) {
    throw error instanceof OperationError ? error : readError(path, error, howToMake);
  } finally {
    await file?.close();
  }
}

/** @throws OperationError */
export async function readCertificates(
  dir: string,
  name: string,
  howToMake: string,
): Promise<CertificateFile> {
  const { path, text } = await readSecret(join(dir, name), howToMake);
  const certificates = (text.match(CERTIFICATE_PATTERN) ?? []).map((pem) => {
    try {
      return new X509Certificate(pem);
    } catch (error) {
      throw new OperationError(`${path} holds a damaged certificate: ${errorMessage(error)}`, {
        hint: howToMake,
      });
    }
  });
  const [first, ...others] = certificates;
  if (first === undefined) {
    throw new OperationError(`${path} holds no certificate in PEM form`, { hint: howToMake });
  }
  return { path, text, certificates: [first, ...others] };
}

/** @throws OperationError */
export async function readKey(dir: string, name: string, howToMake: string): Promise<KeyFile> {
  const file = await readSecret(join(dir, name), howToMake);
  try {
    return { ...file, key: createPrivateKey(file.text) };
  } catch (error) {
    if (/-----BEGIN ENCRYPTED|Proc-Type: 4,ENCRYPTED/.test(file.text)) {
      throw new OperationError(`${file.path} is protected by a passphrase, and nobody is there to type it`, {
        hint: `store it without one: openssl pkey -in ${file.path} -out NEW && mv NEW ${file.path}`,
        cause: error,
      });
    }
    throw new OperationError(`${file.path} holds no private key in PEM form`, {
      hint: howToMake,
      cause: error,
    });
  }
}

function readError(path: string, error: unknown, howToMake: string): OperationError {
  switch (errorCode(error)) {
    case 'ENOENT':
      return new OperationError(`${path} does not exist`, { hint: howToMake, cause: error });
    case 'EACCES':
    case 'EPERM':
      return new OperationError(`${path} can't be read: permission denied for user id ${userId()}`, {
        hint: `give it to this user: chown ${userId()} ${path}`,
        cause: error,
      });
    default:
      return new OperationError(`${path} can't be read: ${errorMessage(error)}`, { cause: error });
  }
}

function userId(): number {
  return process.getuid?.() ?? 0;
}
