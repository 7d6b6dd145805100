// The NBD server over TLS on real sockets: who is let in and as whom, what the log says of the others, and that nothing
// said before TLS, or slipped in around it, has any effect.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ConnectionOptions } from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { OPEN_TO_ALL } from '../../../src/nbd/access.ts';
import { TLS_LOG_LINES } from '../../../src/nbd/limits.ts';
import { deadPeerTimers, socketKind } from '../../../src/nbd/socket-options.ts';
import { NBD_CMD } from '../../../src/nbdwire/constants.ts';
import { loadServerCredentials, type ServerCredentials } from '../../../src/transport/tls-credentials.ts';
import { NbdRig, type NbdRigOptions } from '../../support/nbd-rig.ts';
import { infoData, optionBytes, type RawNbdClient, requestBytes } from '../../support/raw-nbd-client.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { RecorderDevice, SparseDevice } from '../../support/test-devices.ts';
import { TestCa } from '../../support/tls-files.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, FLUSH, DISC } = NBD_CMD;
const KEY = Buffer.alloc(32, 0xab);
const PSK_SUITES = 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256';

const folder = tempDir();
let both: ServerCredentials;
let x509: ServerCredentials;
let psk: ServerCredentials;
let trust: ConnectionOptions;
const clients: Record<'vm1' | 'stranger' | 'expired', ConnectionOptions> = {} as never;

beforeAll(async () => {
  const ca = await TestCa.create(folder.file('ca'));
  const stranger = await TestCa.create(folder.file('other-ca'), 'Other CA');
  const server = await ca.issue(folder.file('server'), 'server', { name: 'localhost' });
  const pskFile = folder.file('keys.psk');
  writeFileSync(pskFile, `alice:${KEY.toString('hex')}\nbob:${'cd'.repeat(32)}\n`, { mode: 0o600 });
  both = await loadServerCredentials({ dir: server, pskFile });
  x509 = await loadServerCredentials({ dir: server });
  psk = await loadServerCredentials({ pskFile });
  trust = { ca: readFileSync(join(server, 'ca-cert.pem')), servername: 'localhost' };
  const shows = (dir: string): ConnectionOptions => ({
    ...trust,
    cert: readFileSync(join(dir, 'client-cert.pem')),
    key: readFileSync(join(dir, 'client-key.pem')),
  });
  const altNames = 'DNS:vm1.example,DNS:vm1.lan,IP:192.0.2.1';
  clients.vm1 = shows(await ca.issue(folder.file('vm1'), 'client', { name: 'vm1', altNames }));
  clients.stranger = shows(await stranger.issue(folder.file('stranger'), 'client', { name: 'vm1' }));
  clients.expired = shows(await ca.issue(folder.file('expired'), 'client', { name: 'vm1', days: -1 }));
});
afterAll(() => folder.remove());

let rig: NbdRig;
let device: RecorderDevice;
afterEach(() => rig.stop());

type Tls = NonNullable<NbdRigOptions['tls']>;

async function serve(tls: Partial<Tls> = {}, options: NbdRigOptions = {}): Promise<void> {
  device = new RecorderDevice(new SparseDevice(8 * MiB));
  rig = await NbdRig.start(device, {
    tls: { mode: 'require', credentials: both, verifyPeer: false, ...tls },
    ...options,
  });
}

/** A client inside TLS, that has chosen no export yet. */
async function secure(options: ConnectionOptions): Promise<RawNbdClient> {
  const plain = await rig.connect();
  await plain.greet();
  return plain.secure(options);
}

async function open(options: ConnectionOptions, name = ''): Promise<RawNbdClient> {
  const client = await secure(options);
  await client.go(name);
  return client;
}

const withKey = (user: string, key = KEY, more: ConnectionOptions = {}): ConnectionOptions => ({
  ciphers: PSK_SUITES,
  pskCallback: () => ({ identity: user, psk: key }),
  checkServerIdentity: () => undefined,
  ...more,
});

/** The log line of a client that was refused, once it is there. */
async function refusal(): Promise<string> {
  await waitUntil(() => rig.problems().length > 0, { what: 'a line about the refused client' });
  await rig.idle();
  expect(rig.problems()).toHaveLength(1);
  return rig.problems()[0]!.replace('NBD client refused: TLS failed ', '');
}

/** Whether a client gets through TLS and to an export; with TLS 1.3 it hears of a refusal only behind its handshake. */
async function isRefused(options: ConnectionOptions): Promise<boolean> {
  try {
    await open(options);
    return false;
  } catch {
    return true;
  }
}

const identities = (): unknown[] =>
  rig.log
    .lines()
    .filter((line) => line.msg === 'NBD client connected')
    .map((line) => line.tls);

describe.each(['TLSv1.2', 'TLSv1.3'] as const)('over %s', (version) => {
  const only = { minVersion: version, maxVersion: version };

  it.each([false, true])('data moves unchanged, in every size (TCP: %s)', async (tcp) => {
    await serve({}, { tcp });
    const client = await open({ ...trust, ...only });
    for (const length of [1, 4 * KiB, 16 * KiB, 100_001, 4 * MiB]) {
      const data = Buffer.from(Array.from({ length }, (_, i) => (i * 31 + length) & 0xff));
      expect((await client.request({ type: WRITE, offset: 77, data })).error).toBe(0);
      expect((await client.request({ type: READ, offset: 77, length })).data.equals(data)).toBe(true);
    }
    client.send(requestBytes({ type: FLUSH, cookie: 9n }), requestBytes({ type: DISC }));
    expect((await client.readReply()).cookie).toBe(9n);
    expect((await client.readToEnd()).length).toBe(0);
    expect(rig.problems()).toEqual([]);
    expect(identities()).toEqual(['anonymous']);
  });

  it('a certificate names its owner, by common name and DNS names', async () => {
    await serve({ verifyPeer: true });
    await open({ ...clients.vm1, ...only });
    expect(identities()).toEqual(['certificate vm1, vm1.example, vm1.lan']);
  });

  it('a key names its user, with certificates beside it or without', async () => {
    await serve({ verifyPeer: true });
    await open(withKey('alice', KEY, only));
    await open(withKey('bob', Buffer.alloc(32, 0xcd), only));
    rig.server.setTlsCredentials(psk);
    await open(withKey('alice', KEY, only));
    expect(identities()).toEqual(['psk alice', 'psk bob', 'psk alice']);
  });

  it.each([
    ['a certificate of another CA', () => clients.stranger, 'the certificate of the client is not signed by'],
    ['an expired certificate', () => clients.expired, 'the certificate of the client has expired'],
    ['no certificate', () => trust, 'the client showed no certificate, and one is required'],
    ['a wrong key', () => withKey('alice', Buffer.alloc(32, 1)), 'is not the one in our file (user "alice")'],
    ['an unknown user', () => withKey('mallory\x1b[31m'), 'no key of a user "mallory?[31m"'],
  ] as const)('a client with %s is refused, with the reason in the log', async (_what, options, reason) => {
    await serve({ verifyPeer: true });
    expect(await isRefused({ ...options(), ...only })).toBe(true);
    expect(await refusal()).toContain(reason);
    expect(identities()).toEqual([]);
    await open({ ...clients.vm1, ...only });
  });
});

it('older versions of TLS are refused', async () => {
  await serve();
  const old = {
    ...trust,
    minVersion: 'TLSv1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT@SECLEVEL=0',
  } as const;
  expect(await isRefused(old)).toBe(true);
  expect(await refusal()).toContain('no TLS version above 1.1');
});

it("the name of a key that wasn't used counts for nothing", async () => {
  const access = { ...OPEN_TO_ALL, keys: new Set(['alice']) };
  await serve({ mode: 'allow' });
  rig.server.setVisibility(new Map([['disk', { access, hidden: false }]]));
  // The key's suites hash by SHA-256, so that with this suite alone the server falls back to its certificate.
  const claims = { ...trust, ...withKey('alice', Buffer.alloc(32, 9)), ciphers: 'TLS_AES_256_GCM_SHA384' };
  const client = await secure(claims);
  await expect(client.go('disk')).rejects.toThrow('no export');
  expect((await open(withKey('alice'), 'disk')).isEnded).toBe(false);
});

it('sessions are not resumed: a certificate is looked at every time', async () => {
  await serve({ verifyPeer: true });
  const sessions: Buffer[] = [];
  const client = await secure(clients.vm1);
  client.socket.on('session', (session: Buffer) => sessions.push(session));
  await client.go();
  await client.request({ type: FLUSH });
  const again = await secure({ ...clients.vm1, session: sessions[0] });
  await again.go();
  expect((again.socket as unknown as { isSessionReused(): boolean }).isSessionReused()).toBe(false);
});

describe('exports for some', () => {
  const access = { ...OPEN_TO_ALL, certificates: new Set(['vm1.lan']) };
  const forVm1 = new Map([['disk', { access, hidden: false }]]);

  it('are asked for a certificate that need not be there, and are there only with it', async () => {
    await serve({ mode: 'allow' });
    rig.server.setVisibility(forVm1);
    const plain = await rig.connect();
    await plain.greet();
    await expect(plain.go('disk')).rejects.toThrow('5: no export is named "disk" without TLS');
    await expect((await secure(trust)).go('disk')).rejects.toThrow('6: no export');
    await open(clients.vm1, 'disk');
    expect(identities()).toEqual(['certificate vm1, vm1.example, vm1.lan']);
  });

  it('are not for who shows a certificate that does not verify', async () => {
    await serve({ mode: 'allow' });
    rig.server.setVisibility(forVm1);
    expect(await isRefused(clients.stranger)).toBe(true);
    expect(await refusal()).toContain('is not signed by ca-cert.pem');
  });
});

describe('what came in the clear', () => {
  it('behind STARTTLS in one segment is never carried out', async () => {
    await serve({ mode: 'allow' });
    const client = await rig.connect();
    await client.greet();
    const write = requestBytes({ type: WRITE, data: Buffer.alloc(512, 1) });
    client.send(Buffer.concat([optionBytes(5), optionBytes(7, infoData('disk')), write]));
    expect((await client.readToEnd()).length).toBe(0);
    expect(rig.problems()).toEqual([
      `NBD connection cut ${16 + 10 + 512 + 28} bytes behind STARTTLS, before TLS was up`,
    ]);
    expect(device.calls).toEqual([]);
  });

  it('behind STARTTLS later is taken for TLS, and ends the connection', async () => {
    await serve({ mode: 'allow' });
    const client = await rig.connect();
    await client.greet();
    await client.option(5);
    client.send(optionBytes(7, infoData('disk')), requestBytes({ type: WRITE, data: Buffer.alloc(512, 1) }));
    await client.readToEnd();
    expect(await refusal()).toContain('sent something that is not TLS');
    expect(device.calls).toEqual([]);
  });

  it('before STARTTLS is forgotten: the export that INFO named is not open', async () => {
    await serve({ mode: 'allow' });
    const plain = await rig.connect();
    await plain.greet();
    await plain.option(6, infoData('disk'));
    const client = await plain.secure(trust);
    client.send(requestBytes({ type: WRITE, data: Buffer.alloc(512, 1) }));
    await client.readToEnd();
    expect(device.calls).toEqual([]);
  });

  it('is never heard once TLS is up', async () => {
    await serve();
    const plain = await rig.connect();
    await plain.greet();
    const client = await plain.secure(trust);
    await client.go();
    plain.socket.write(requestBytes({ type: WRITE, data: Buffer.alloc(512, 1) }));
    await client.readToEnd();
    await rig.idle();
    expect(device.calls).toEqual([]);
  });
});

describe('clients that stall or leave', () => {
  it('during TLS are cut by the deadline that began with the connection', async () => {
    await serve({}, { handshakeTimeoutMs: 400 });
    const begun = performance.now();
    const client = await rig.connect();
    await client.greet();
    await client.option(5);
    client.send(Buffer.from([0x16, 3, 1, 2]));
    await client.readToEnd();
    expect(performance.now() - begun).toBeGreaterThan(350);
    await rig.idle();
    expect(rig.problems()).toEqual(['NBD handshake timed out TLS was not done']);
  });

  it('inside TLS, before an export is chosen, are cut too', async () => {
    await serve({}, { handshakeTimeoutMs: 1000 });
    const client = await secure(trust);
    await client.readToEnd();
    await rig.idle();
    expect(rig.problems()).toEqual(['NBD handshake timed out']);
  });

  it.each(['end', 'destroy', 'resetAndDestroy'] as const)(
    'at any step by %s take nothing with them',
    async (how) => {
      await serve({}, { tcp: true });
      for (const stage of [0, 1, 2, 3]) {
        const client = await rig.connect();
        await client.greet();
        if (stage >= 1) await client.option(5);
        if (stage >= 2) client.send(Buffer.from([0x16, 3, 1]));
        if (stage >= 3) client.send(Buffer.alloc(300));
        client.socket[how]();
        await client.readToEnd();
        client.socket.destroy();
      }
      await rig.idle();
      await open(trust);
    },
  );

  it('by the hundred disturb nobody', async () => {
    await serve({}, { tcp: true, handshakeTimeoutMs: 60_000 });
    const stalled: RawNbdClient[] = [];
    for (let i = 0; i < 300; i += 1) {
      const client = await rig.connect();
      await client.greet();
      await client.option(5);
      client.send(Buffer.from([0x16, 3, 1, 2, 0, 1, 0]));
      stalled.push(client);
    }
    expect(rig.server.connectionCount).toBe(300);
    const good = await open(trust);
    for (let i = 0; i < 50; i += 1) {
      expect((await good.request({ type: WRITE, offset: i * 512, data: Buffer.alloc(512, i) })).error).toBe(
        0,
      );
    }
    for (const client of stalled) await client.destroy();
    await waitUntil(() => rig.server.connectionCount === 1);
    const lines = rig.problems();
    expect(lines.length).toBeLessThanOrEqual(TLS_LOG_LINES);
    expect(lines[0]).toContain('the client went away during the TLS handshake');
  });

  it('do not hold the server when it closes, at any step', async () => {
    await serve({}, { handshakeTimeoutMs: 60_000, shutdownTimeoutMs: 5000 });
    const waiting = await rig.connect();
    await waiting.greet();
    const inside = await rig.connect();
    await inside.greet();
    await inside.option(5);
    inside.send(Buffer.from([0x16, 3, 1]));
    await open(trust);
    const begun = performance.now();
    await rig.server.close();
    expect(performance.now() - begun).toBeLessThan(4000);
    expect(rig.problems()).toEqual([]);
  });
});

it('new credentials hold for new clients, and those who are there stay', async () => {
  await serve({ credentials: x509 });
  const client = await open(trust);
  rig.server.setTlsCredentials(psk);
  expect(await isRefused(trust)).toBe(true);
  await open(withKey('alice'));
  expect((await client.request({ type: FLUSH })).error).toBe(0);
});

it('a TCP client that is gone is noticed as soon as without TLS', async () => {
  await serve({}, { tcp: true });
  await open(trust);
  const connected = Array.from({ length: 1000 }, (_, fd) => fd).filter(
    (fd) => socketKind(fd) === 'connected',
  );
  // Idle seconds, seconds between probes, probes, milliseconds without an acknowledgement.
  expect(connected.map((fd) => deadPeerTimers(fd))).toContainEqual([30, 15, 6, 120_000]);
});

it('a broken record ends the connection, with its last requests unharmed', async () => {
  await serve();
  const client = await open(trust);
  expect((await client.request({ type: WRITE, data: Buffer.alloc(512, 1) })).error).toBe(0);
  const before = device.take();
  const raw = client.socket as unknown as { _parent: { write(bytes: Buffer): void } };
  raw._parent.write(Buffer.concat([Buffer.from([0x17, 3, 3, 0, 40]), Buffer.alloc(40, 7)]));
  await client.readToEnd();
  await rig.idle();
  expect(before).toEqual(['write 0+512']);
  expect(device.calls).toEqual([]);
});
