// connectTls against Node's own TLS server: whom it trusts, and what it says when it doesn't.

import { readFileSync, writeFileSync } from 'node:fs';
import {
  type AddressInfo,
  connect,
  createServer as createPlainServer,
  type Server,
  type Socket,
} from 'node:net';
import { join } from 'node:path';
import { createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { connectTls } from '../../../src/transport/tls-client.ts';
import { type ClientTlsFiles, loadClientCredentials } from '../../../src/transport/tls-credentials.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { TestCa } from '../../support/tls-files.ts';

const folder = tempDir();
const KEY = 'ab'.repeat(32);
let serverDir: string;
let clientDir: string;
let strangerDir: string;
const cleanup: Array<() => void> = [];

beforeAll(async () => {
  const ca = await TestCa.create(folder.file('ca'));
  const stranger = await TestCa.create(folder.file('stranger-ca'));
  serverDir = await ca.issue(folder.file('server'), 'server', {
    name: 'disk.example',
    altNames: 'DNS:disk.example,IP:127.0.0.1',
  });
  clientDir = await ca.issue(folder.file('client'), 'client', { name: 'vm1' });
  strangerDir = await stranger.issue(folder.file('stranger'), 'client', { name: 'vm1' });
  writeFileSync(folder.file('keys.psk'), `alice:${KEY}\n`, { mode: 0o600 });
  writeFileSync(folder.file('wrong.psk'), `alice:${'cd'.repeat(32)}\n`, { mode: 0o600 });
});
afterEach(() => {
  for (const undo of cleanup.splice(0)) undo();
});
afterAll(() => folder.remove());

const withCertificate = (): TlsOptions => ({
  cert: readFileSync(join(serverDir, 'server-cert.pem')),
  key: readFileSync(join(serverDir, 'server-key.pem')),
});

function serverOf(options: TlsOptions): Server {
  const server = createServer(options, (socket) => {
    socket.on('error', () => {});
    socket.end(`hello ${socket.getPeerCertificate().subject?.CN ?? 'nobody'}`);
  });
  server.on('tlsClientError', () => {});
  return server;
}

async function dial(
  server: Server,
  files: ClientTlsFiles,
  serverName = 'disk.example',
  timeoutMs = 10_000,
): Promise<TLSSocket> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const socket: Socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  cleanup.push(() => {
    socket.destroy();
    server.close();
  });
  await new Promise((resolve) => socket.once('connect', resolve));
  return connectTls(socket, await loadClientCredentials(files), { serverName, timeoutMs });
}

async function greeting(secure: TLSSocket): Promise<string> {
  let text = '';
  for await (const chunk of secure) text += String(chunk);
  return text;
}

test('a server with the right certificate, by name and by address', async () => {
  for (const name of ['disk.example', '127.0.0.1']) {
    const secure = await dial(serverOf(withCertificate()), { dir: clientDir }, name);
    expect(secure.getProtocol()).toBe('TLSv1.3');
    expect(await greeting(secure)).toBe('hello nobody');
  }
});

test('shows its certificate when asked', async () => {
  const ca = readFileSync(join(serverDir, 'ca-cert.pem'));
  const server = serverOf({ ...withCertificate(), ca, requestCert: true, rejectUnauthorized: true });
  expect(await greeting(await dial(server, { dir: clientDir }))).toBe('hello vm1');
});

test.each([
  ['another name', () => clientDir, 'other.example', "server's certificate is for another name"],
  ['another address', () => clientDir, '127.0.0.2', "server's certificate is for another name"],
  ['another CA', () => strangerDir, 'disk.example', 'certificate of the server is not signed by ca-cert.pem'],
])('refuses a server of %s', async (_what, dir, name, reason) => {
  await expect(dial(serverOf(withCertificate()), { dir: dir() }, name)).rejects.toThrow(reason);
});

test('refuses TLS 1.1', async () => {
  const server = serverOf({
    ...withCertificate(),
    minVersion: 'TLSv1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT@SECLEVEL=0',
  });
  await expect(dial(server, { dir: clientDir })).rejects.toThrow(/another TLS version|no TLS version/);
});

test.each(['TLSv1.2', 'TLSv1.3'] as const)('a pre-shared key, %s', async (version) => {
  const psk = Buffer.from(KEY, 'hex');
  const options: TlsOptions = {
    pskCallback: (_socket, identity) => (identity === 'alice' ? psk : null),
    ciphers: 'ECDHE-PSK-CHACHA20-POLY1305:TLS_AES_128_GCM_SHA256',
    minVersion: version,
    maxVersion: version,
  };
  const secure = await dial(serverOf(options), { pskFile: folder.file('keys.psk') });
  expect(secure.getProtocol()).toBe(version);
  expect(await greeting(secure)).toContain('hello');
  await expect(dial(serverOf(options), { pskFile: folder.file('wrong.psk') })).rejects.toThrow(/key/);
});

test('a server with a certificate instead of the key is refused', async () => {
  const dialing = dial(serverOf(withCertificate()), { pskFile: folder.file('keys.psk') });
  await expect(dialing).rejects.toThrow(/certificate|accepts neither/);
});

test('a server that speaks something else, hangs up, or says nothing', async () => {
  const speaking = (talk: (socket: Socket) => void): Server =>
    createPlainServer((socket) => {
      socket.on('error', () => {});
      cleanup.push(() => socket.destroy());
      talk(socket);
    });
  const junk = speaking((socket) => void socket.write('NBDMAGIC'.repeat(4)));
  await expect(dial(junk, { dir: clientDir })).rejects.toThrow('sent something that is not TLS');
  const gone = speaking((socket) => void socket.once('data', () => socket.end()));
  await expect(dial(gone, { dir: clientDir })).rejects.toThrow(/closed|went away/);
  const silent = speaking(() => {});
  await expect(dial(silent, { dir: clientDir }, 'disk.example', 100)).rejects.toThrow('within 100 ms');
});
