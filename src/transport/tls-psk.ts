// Pre-shared keys in psktool's file: one `user:hexkey` a line, as GnuTLS reads it.
import { OperationError } from '../base/errors.ts';
import { readSecret } from './tls-files.ts';

/** Longest name that TLS libraries agree on, bytes of UTF-8. */
const MAX_USER_BYTES = 128;
/** A shorter key can be guessed from one recorded handshake. */
const MIN_KEY_BYTES = 16;
/** What TLS libraries agree on. */
const MAX_KEY_BYTES = 256;

/** User names and what they prove themselves with. */
export type PskKeys = ReadonlyMap<string, Buffer>;

export interface PskFile {
  readonly path: string;
  readonly keys: PskKeys;
  readonly warnings: readonly string[];
}

/** @throws OperationError naming the file, the line, and what is wrong with it; never a key */
export async function readPskFile(path: string): Promise<PskFile> {
  const howToMake = `make it: psktool -u USER -p ${path}`;
  const { text, isPublic } = await readSecret(path, howToMake);
  const keys = parsePskLines(text, path);
  if (keys.size === 0) throw new OperationError(`${path} holds no key`, { hint: howToMake });
  const warnings = isPublic ? [`${path} can be read by every user of this machine: chmod o= ${path}`] : [];
  return { path, keys, warnings };
}

/** @param path for errors */
export function parsePskLines(text: string, path: string): PskKeys {
  const keys = new Map<string, Buffer>();
  const lines = text.split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    // A line that starts with # and has no colon is a comment; with one it is a name in hexadecimal digits.
    if (line.trim() === '' || (line.startsWith('#') && !line.includes(':'))) continue;
    const fail = (what: string): OperationError =>
      new OperationError(`${path}, line ${index + 1}: ${what}`, {
        hint: `lines are USER:HEXKEY, as psktool -u USER -p ${path} writes them`,
      });
    const colon = line.lastIndexOf(':');
    if (colon === -1) throw fail('there is no colon between a user and a key');
    const user = userName(line.slice(0, colon));
    if (user === undefined) throw fail(`the user's name is not 1 to ${MAX_USER_BYTES} bytes without NUL`);
    if (keys.has(user)) throw fail(`${JSON.stringify(user)} has a key already`);
    const hex = line.slice(colon + 1).trim();
    if (hex.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(hex)) throw fail('the key is not in hexadecimal digits');
    const key = Buffer.from(hex, 'hex');
    if (key.length < MIN_KEY_BYTES || key.length > MAX_KEY_BYTES) {
      throw fail(`the key has ${key.length} bytes; ${MIN_KEY_BYTES} to ${MAX_KEY_BYTES} are allowed`);
    }
    keys.set(user, key);
  }
  return keys;
}

/** GnuTLS writes a name with unusual characters as # and hexadecimal digits. */
function userName(field: string): string | undefined {
  const coded = /^#((?:[0-9a-f]{2})+)$/i.exec(field)?.[1];
  const name = coded === undefined ? field : Buffer.from(coded, 'hex').toString('utf8');
  const bytes = Buffer.byteLength(name);
  return bytes >= 1 && bytes <= MAX_USER_BYTES && !name.includes('\0') ? name : undefined;
}
