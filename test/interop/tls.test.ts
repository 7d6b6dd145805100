// TLS as other people's clients speak it, with certificates and keys made by the very commands of docs/TLS.md.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { type CliProcess, runCli, startServe } from '../support/cli.ts';
import { type PeerResult, runPeer, runPeerOk } from '../support/peers.ts';
import { makeFolder, makeImage } from '../support/rig.ts';
import { TestCa } from '../support/tls-files.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 16 * MiB;
const page = readFileSync(resolve(import.meta.dirname, '../../docs/TLS.md'), 'utf8');

/** The commands under a heading of the page, for a server that is called localhost. */
function commands(heading: string): string {
  const section = page.split(`## ${heading}\n`)[1]!.split('\n## ')[0]!;
  return /```sh\n([\s\S]*?)```/.exec(section)![1]!.replaceAll('disks.example', 'localhost');
}

async function follow(heading: string, cwd: string): Promise<void> {
  mkdirSync(cwd, { recursive: true });
  await runPeerOk('bash', ['-euo', 'pipefail', '-c', commands(heading)], { cwd });
}

const folder = makeFolder();
const at = (...parts: string[]): string => join(folder.path, ...parts);
const running: CliProcess[] = [];

beforeAll(async () => {
  await follow('Making certificates with openssl', at('pki'));
  await follow('Making certificates with certtool', at('tool'));
  await follow('Making pre-shared keys', at('psk'));
  makeImage(at('source.raw'), SIZE, [[1, 5]]);
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.kill();
});
afterAll(() => folder[Symbol.dispose]());

/** One at a time: they share the image. */
async function serve(...args: string[]): Promise<CliProcess> {
  for (const one of running.splice(0)) await one.kill();
  const started = await startServe([`disk=${at('disk.img')}`, '--create', '16M', ...args]);
  running.push(started);
  return started;
}

const uri = (port: number, dir: string, host = 'localhost'): string =>
  `nbds://${host}:${port}/disk?tls-certificates=${dir}`;
const pskUri = (port: number, user: string, file = at('psk', 'keys.psk')): string =>
  `nbds://${user}@localhost:${port}/disk?tls-psk-file=${file}`;

/** Arguments of qemu-img for an export over TLS. */
const qemu = (port: number, creds: string): string[] => [
  ...['--object', `${creds},id=t,endpoint=client`],
  ...['--image-opts', `driver=nbd,host=localhost,port=${port},export=disk,tls-creds=t`],
];

const refusals = (server: CliProcess): string[] =>
  server
    .logs()
    .split('\n')
    .filter((line) => line.includes('TLS failed'))
    .map((line) => (JSON.parse(line) as { reason: string }).reason);

/** The one reason why a client was refused, which it must have noticed. */
async function refusal(server: CliProcess, client: PeerResult): Promise<string> {
  expect(client.code, client.stdout).not.toBe(0);
  return waitUntil(() => refusals(server)[0], { what: 'the reason in the log' });
}

describe.each(['pki', 'tool'])('certificates made by the commands of the page (%s)', (pki) => {
  it('let QEMU and libnbd in, with the disk unchanged', async () => {
    const server = await serve('--tls-dir', at(pki, 'server'), '--tls-verify-peer');
    expect(server.urls[0]).toMatch(/^nbds:\/\/127\.0\.0\.1:/);
    const { port } = server;
    const creds = `tls-creds-x509,dir=${at(pki, 'vm1')},verify-peer=yes`;
    const to = qemu(port, creds);
    await runPeerOk('qemu-img', [
      'convert',
      '-n',
      '-f',
      'raw',
      ...to.slice(0, 2),
      at('source.raw'),
      '--target-image-opts',
      to[3]!,
    ]);
    await runPeerOk('nbdcopy', [uri(port, at(pki, 'vm1')), at('back.raw')]);
    await runPeerOk('cmp', [at('source.raw'), at('back.raw')]);
    await runPeerOk('cmp', [at('source.raw'), at('disk.img')]);
    const info = await runPeerOk('nbdinfo', [uri(port, at(pki, 'vm1'), '127.0.0.1')]);
    expect(info).toContain('with TLS');
    expect(server.logs()).toContain('"tls":"certificate vm1"');
  });
});

describe('pre-shared keys', () => {
  it.each([false, true])('let QEMU and libnbd in (certificates beside them: %s)', async (both) => {
    const server = await serve(
      '--tls-psk',
      at('psk', 'keys.psk'),
      ...(both ? ['--tls-dir', at('pki', 'server')] : []),
    );
    const { port } = server;
    const creds = `tls-creds-psk,dir=${at('psk')},username=alice`;
    const info = JSON.parse(
      await runPeerOk('qemu-img', ['info', '--output=json', ...qemu(port, creds)]),
    ) as object;
    expect(info).toMatchObject({ 'virtual-size': SIZE });
    await runPeerOk('nbdcopy', [at('source.raw'), pskUri(port, 'bob')]);
    await runPeerOk('cmp', [at('source.raw'), at('disk.img')]);
    expect(server.logs()).toContain('"tls":"psk alice"');
    expect(server.logs()).toContain('"tls":"psk bob"');
  });

  it('that are wrong or unknown let nobody in', async () => {
    writeFileSync(at('wrong.psk'), `alice:${'00'.repeat(32)}\nmallory:${'00'.repeat(32)}\n`);
    const wrong = await serve('--tls-psk', at('psk', 'keys.psk'));
    const client = await runPeer('nbdinfo', [pskUri(wrong.port, 'alice', at('wrong.psk'))]);
    expect(await refusal(wrong, client)).toBe(
      'the key of the client is not the one in our file (user "alice")',
    );
    const unknown = await serve('--tls-psk', at('psk', 'keys.psk'));
    const other = await runPeer('nbdinfo', [pskUri(unknown.port, 'mallory', at('wrong.psk'))]);
    expect(await refusal(unknown, other)).toContain('there is no key of a user "mallory"');
  });
});

describe('a client that is refused, or refuses', () => {
  it('for want of a certificate', async () => {
    const server = await serve('--tls-dir', at('pki', 'server'), '--tls-verify-peer');
    mkdirSync(at('none'), { recursive: true });
    copyFileSync(at('pki', 'ca-cert.pem'), at('none', 'ca-cert.pem'));
    const client = await runPeer('nbdinfo', [uri(server.port, at('none'))]);
    expect(await refusal(server, client)).toBe('the client showed no certificate, and one is required');
  });

  it('for a certificate of another authority, or an expired one', async () => {
    // By the same name, as clients don't even show certificates of an authority that the server didn't name.
    const ca = await TestCa.create(at('other-ca'), 'NBD CA');
    await ca.issue(at('stranger'), 'client', { name: 'vm1' });
    copyFileSync(at('pki', 'ca-cert.pem'), at('stranger', 'ca-cert.pem'));
    const server = await serve('--tls-dir', at('pki', 'server'), '--tls-verify-peer');
    const client = await runPeer('qemu-img', [
      'info',
      ...qemu(server.port, `tls-creds-x509,dir=${at('stranger')},verify-peer=yes,sanity-check=no`),
    ]);
    expect(await refusal(server, client)).toBe('the certificate of the client is not signed by ca-cert.pem');

    const own = await TestCa.create(at('own-ca'), 'Own');
    await own.issue(at('own-server'), 'server', { name: 'localhost' });
    await own.issue(at('late'), 'client', { name: 'vm1', days: -1 });
    const second = await serve('--tls-dir', at('own-server'), '--tls-verify-peer');
    const late = await runPeer('nbdinfo', [uri(second.port, at('late'))]);
    expect(await refusal(second, late)).toBe('the certificate of the client has expired');
  });

  it('because the server is another than it expects: authority, name', async () => {
    const server = await serve('--tls-dir', at('pki', 'server'));
    const wrongCa = await runPeer('nbdinfo', [uri(server.port, at('tool', 'vm1'))]);
    expect(wrongCa.stderr).toContain('Error in the certificate verification');
    expect(await refusal(server, wrongCa)).toMatch(/the client (doesn't trust|refused|went away)/);
    const ca = await TestCa.create(at('named-ca'), 'Named');
    await ca.issue(at('named'), 'server', { name: 'other.example' });
    const named = await serve('--tls-dir', at('named'));
    const wrongName = await runPeer('nbdinfo', [uri(named.port, at('named'))]);
    expect(wrongName.stderr).toContain('Error in the certificate verification');
    expect(await refusal(named, wrongName)).toMatch(/the client (doesn't trust|refused|went away)/);
  });

  it('without TLS, and is told so', async () => {
    const server = await serve('--tls-psk', at('psk', 'keys.psk'));
    const client = await runPeer('nbdinfo', [`nbd://localhost:${server.port}/disk`]);
    expect(client).toMatchObject({ code: 1, stderr: expect.stringContaining('Operation not supported') });
    expect((await runPeer('qemu-img', ['info', `nbd://localhost:${server.port}/disk`])).stderr).toMatch(
      /TLS/,
    );
  });
});

it('names in certificates open an export, and leave others out', async () => {
  const server = await serve('--tls-dir', at('pki', 'server'), '--export', 'disk,allow-cert=vm2');
  const client = await runPeer('nbdinfo', [uri(server.port, at('pki', 'vm1'))]);
  expect(client).toMatchObject({ code: 1, stderr: expect.stringContaining('No such file') });
  const other = await serve('--tls-dir', at('pki', 'server'), '--export', 'disk,allow-cert=vm1+vm2');
  await runPeerOk('nbdinfo', [uri(other.port, at('pki', 'vm1'))]);
});

it('SIGHUP takes new files while a client works, and keeps the old ones when the new are bad', async () => {
  await follow('Making certificates with openssl', at('live'));
  const server = await serve('--tls-dir', at('live', 'server'), '--tls-verify-peer');
  const { port } = server;
  const script = [
    'import sys, time, os',
    'h.connect_uri(os.environ["URI"])',
    'deadline = time.time() + 60',
    'n = 0',
    'while not os.path.exists(os.environ["STOP"]) and time.time() < deadline:',
    '    h.pwrite(bytes([n % 251]) * 4096, 4096 * (n % 64)); n += 1',
    'print("wrote", n > 0)',
  ].join('\n');
  const worker = runPeerOk('nbdsh', ['-c', 'h.set_uri_allow_local_file(True)', '-c', '-'], {
    input: script,
    env: { URI: uri(port, at('live', 'vm1')), STOP: at('stop') },
  });
  await waitUntil(() => server.logs().includes('NBD client connected'), { timeoutMs: 30_000 });
  const reloaded = (text: string, times = 1): Promise<unknown> =>
    waitUntil(() => server.logs().split(text).length > times, { what: text, timeoutMs: 30_000 });

  const key = readFileSync(at('live', 'server', 'server-key.pem'));
  writeFileSync(at('live', 'server', 'server-key.pem'), 'rubbish');
  server.signal('SIGHUP');
  await reloaded('reload failed');
  expect(server.logs()).toContain('server-key.pem holds no private key in PEM form');
  await runPeerOk('nbdinfo', [uri(port, at('live', 'vm1'))]);

  writeFileSync(at('live', 'server', 'server-key.pem'), key);
  await follow('Revoking a certificate', at('live'));
  server.signal('SIGHUP');
  await reloaded('"TLS files","msg":"reloaded"');
  const revoked = await runPeer('nbdinfo', [uri(port, at('live', 'vm1'))]);
  expect(await refusal(server, revoked)).toBe('the certificate of the client was revoked');

  writeFileSync(at('stop'), '');
  expect(await worker).toBe('wrote True\n');
});

it.each([
  [['--tls-dir', '/nonexistent'], '/nonexistent does not exist'],
  [['--tls-psk', '/nonexistent.psk'], 'make it: psktool -u USER -p /nonexistent.psk'],
])('%j ends the start with what is missing', async (args, message) => {
  const result = await runCli(['serve', at('source.raw'), '--listen', '127.0.0.1:0', ...args]);
  expect(result).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining(message) });
});
