// Loading TLS files: every way in which one can be wrong is named, with what to do.
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { loadClientCredentials, loadServerCredentials } from '../../../src/transport/tls-credentials.ts';
import { parsePskLines } from '../../../src/transport/tls-psk.ts';
import { runPeerOk } from '../../support/peers.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { TestCa } from '../../support/tls-files.ts';

const folder = tempDir();
let ca: TestCa;
let good: string;
let clientDir: string;
const KEY = 'a'.repeat(64);

beforeAll(async () => {
  ca = await TestCa.create(folder.file('ca'));
  good = await ca.issue(folder.file('good'), 'server', { name: 'localhost' });
  clientDir = await ca.issue(folder.file('client'), 'client', { name: 'vm1' });
});
afterAll(() => folder.remove());

/** A copy of a tls-dir, to be broken. */
function copyOf(dir: string, name: string): string {
  const path = folder.file(name);
  mkdirSync(path);
  for (const file of [
    'ca-cert.pem',
    'server-cert.pem',
    'server-key.pem',
    'client-cert.pem',
    'client-key.pem',
  ]) {
    try {
      copyFileSync(join(dir, file), join(path, file));
    } catch {
      // Only one side's files are there.
    }
  }
  return path;
}

async function problem(loading: Promise<unknown>): Promise<{ message: string; hint: string }> {
  const error = await loading.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OperationError)) throw new Error(`not refused with a reason: ${String(error)}`);
  return { message: error.message, hint: error.hint ?? '' };
}

describe('a tls-dir of a server', () => {
  test('loads without a warning', async () => {
    const credentials = await loadServerCredentials({ dir: good });
    expect(credentials).toMatchObject({ certificates: true, keys: undefined, warnings: [] });
  });

  test.each(['ca-cert.pem', 'server-cert.pem', 'server-key.pem'])('without %s', async (name) => {
    const dir = copyOf(good, `without-${name}`);
    rmSync(join(dir, name));
    const { message, hint } = await problem(loadServerCredentials({ dir }));
    expect(message).toBe(`${join(dir, name)} does not exist`);
    expect(hint).toContain(`openssl req`);
    expect(hint).toContain(join(dir, name));
  });

  test.each(['ca-cert.pem', 'server-cert.pem', 'server-key.pem', 'ca-crl.pem'])(
    'with junk in %s',
    async (name) => {
      const dir = copyOf(good, `junk-${name}`);
      writeFileSync(join(dir, name), 'junk\n');
      expect((await problem(loadServerCredentials({ dir }))).message).toContain(
        `${join(dir, name)} holds no`,
      );
    },
  );

  test('with a damaged certificate', async () => {
    const dir = copyOf(good, 'damaged');
    const text = readFileSync(join(dir, 'server-cert.pem'), 'utf8').replace(
      /^M.{20}/m,
      'MAAAAAAAAAAAAAAAAAAAA',
    );
    writeFileSync(join(dir, 'server-cert.pem'), text);
    expect((await problem(loadServerCredentials({ dir }))).message).toContain('holds a damaged certificate');
  });

  test("with another certificate's key", async () => {
    const dir = copyOf(good, 'mismatch');
    copyFileSync(join(clientDir, 'client-key.pem'), join(dir, 'server-key.pem'));
    const { message } = await problem(loadServerCredentials({ dir }));
    expect(message).toBe(`${join(dir, 'server-key.pem')} is not the key of ${join(dir, 'server-cert.pem')}`);
  });

  test('with a key behind a passphrase', async () => {
    const dir = copyOf(good, 'passphrase');
    const key = join(dir, 'server-key.pem');
    await runPeerOk('openssl', [
      'pkey',
      '-in',
      join(good, 'server-key.pem'),
      '-aes256',
      '-passout',
      'pass:x',
      '-out',
      key,
    ]);
    const { message, hint } = await problem(loadServerCredentials({ dir }));
    expect(message).toContain('protected by a passphrase');
    expect(hint).toContain('openssl pkey');
  });

  test('that is missing, a file, or too large', async () => {
    expect((await problem(loadServerCredentials({ dir: folder.file('nowhere') }))).message).toContain(
      'nowhere does not exist',
    );
    const file = join(good, 'server-key.pem');
    expect((await problem(loadServerCredentials({ dir: file }))).message).toContain('is not a directory');
    const dir = copyOf(good, 'large');
    writeFileSync(join(dir, 'ca-cert.pem'), 'x'.repeat(1024 * 1024 + 1));
    expect((await problem(loadServerCredentials({ dir }))).message).toContain('at most 1048576 are read');
    rmSync(join(dir, 'ca-cert.pem'));
    mkdirSync(join(dir, 'ca-cert.pem'));
    expect((await problem(loadServerCredentials({ dir }))).message).toContain('is not a regular file');
  });

  test('with a key that everybody can read, and an expired certificate of another CA: a warning each', async () => {
    const other = await TestCa.create(folder.file('other-ca'));
    const dir = await other.issue(folder.file('odd'), 'server', { name: 'localhost', days: -1 });
    copyFileSync(join(good, 'ca-cert.pem'), join(dir, 'ca-cert.pem'));
    chmodSync(join(dir, 'server-key.pem'), 0o644);
    const { warnings } = await loadServerCredentials({ dir });
    expect(warnings).toEqual([
      expect.stringContaining('server-cert.pem expired on'),
      expect.stringContaining('is not signed by'),
      expect.stringContaining('can be read by every user'),
    ]);
  });

  test('that vanishes later disturbs nobody', async () => {
    const dir = copyOf(good, 'vanishing');
    const { secureContext } = await loadServerCredentials({ dir });
    rmSync(dir, { recursive: true });
    expect(secureContext.context).toBeDefined();
  });
});

describe('a tls-dir of a client', () => {
  test('needs its own certificate only when the server asks for one', async () => {
    const dir = copyOf(clientDir, 'ca-only');
    rmSync(join(dir, 'client-cert.pem'));
    expect((await problem(loadClientCredentials({ dir }))).message).toContain(
      'client-cert.pem does not exist',
    );
    rmSync(join(dir, 'client-key.pem'));
    const credentials = await loadClientCredentials({ dir });
    expect(credentials).toMatchObject({
      certificates: true,
      warnings: [],
      options: { rejectUnauthorized: true },
    });
  });

  test('excludes a file of keys', async () => {
    await expect(loadClientCredentials({ dir: clientDir, pskFile: 'x' })).rejects.toThrow(UsageError);
    await expect(loadClientCredentials({})).rejects.toThrow(UsageError);
    await expect(loadServerCredentials({})).rejects.toThrow(UsageError);
  });
});

describe('a file of pre-shared keys', () => {
  const write = (name: string, text: string): string => {
    const path = folder.file(name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };

  test('as psktool writes it', async () => {
    const path = folder.file('psktool.psk');
    await runPeerOk('psktool', ['-u', 'alice', '-p', path]);
    await runPeerOk('psktool', ['-u', 'bob', '-p', path]);
    const { keys, warnings, certificates } = await loadServerCredentials({ pskFile: path });
    expect([...(keys?.keys() ?? [])]).toEqual(['alice', 'bob']);
    expect(keys?.get('bob')).toHaveLength(32);
    expect({ warnings, certificates }).toEqual({ warnings: [], certificates: false });
  });

  test('with comments, empty lines, DOS line ends and a coded name', () => {
    const keys = parsePskLines(`# mine\r\n\r\na:b:${KEY}\r\n#c3a96c:${KEY}\r\n`, 'f');
    expect([...keys.keys()]).toEqual(['a:b', '\u00e9l']);
  });

  test.each([
    ['alice', 'no colon'],
    [`:${KEY}`, 'name'],
    [`${'x'.repeat(129)}:${KEY}`, 'name'],
    ['alice:abc', 'hexadecimal'],
    ['alice:zz', 'hexadecimal'],
    ['alice:00112233445566', 'has 7 bytes'],
    [`alice:${'00'.repeat(257)}`, 'has 257 bytes'],
    [`bob:${KEY}\nbob:${KEY}`, 'has a key already'],
  ])('%j is refused, and no key is shown', async (text, what) => {
    const path = write('bad.psk', `# comment\n${text}\n`);
    const { message, hint } = await problem(loadServerCredentials({ pskFile: path }));
    expect(message).toContain(what);
    expect(message).toMatch(/line [23]:/);
    expect(hint).toContain('psktool');
    expect(message + hint).not.toContain(KEY);
  });

  test('that is empty, missing, or for everybody to read', async () => {
    expect((await problem(loadServerCredentials({ pskFile: write('empty.psk', '\n') }))).message).toContain(
      'holds no key',
    );
    const missing = await problem(loadServerCredentials({ pskFile: folder.file('none.psk') }));
    expect(missing.hint).toContain('psktool -u USER');
    const open = write('open.psk', `alice:${KEY}\n`);
    chmodSync(open, 0o644);
    expect((await loadServerCredentials({ pskFile: open })).warnings).toEqual([
      expect.stringContaining('chmod'),
    ]);
  });

  test('a client takes the only key, or the one it is told', async () => {
    const one = write('one.psk', `alice:${KEY}\n`);
    const two = write('two.psk', `alice:${KEY}\nbob:${'b'.repeat(64)}\n`);
    const identity = async (pskFile: string, pskUser?: string): Promise<unknown> =>
      (await loadClientCredentials({ pskFile, pskUser })).options.pskCallback?.(null);
    expect(await identity(one)).toMatchObject({ identity: 'alice' });
    expect(await identity(two, 'bob')).toMatchObject({ identity: 'bob', psk: Buffer.alloc(32, 0xbb) });
    expect(await problem(identity(two))).toMatchObject({
      message: expect.stringContaining('holds several keys'),
      hint: expect.stringContaining('alice, bob'),
    });
    expect((await problem(identity(two, 'eve'))).message).toContain('holds no key of "eve"');
  });
});

test('a file behind a link that leads nowhere is named', async () => {
  const dir = copyOf(good, 'dangling');
  rmSync(join(dir, 'server-cert.pem'));
  symlinkSync(join(dir, 'gone.pem'), join(dir, 'server-cert.pem'));
  expect((await problem(loadServerCredentials({ dir }))).message).toContain('server-cert.pem does not exist');
});
