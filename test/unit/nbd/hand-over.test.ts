// A client that talks to one server and is served by another: nothing that it sent or was promised gets lost on the way,
// and both know when it's gone.
import { writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { loadNativeCalls } from '../../../src/base/native-calls.ts';
import type { ExportSpec } from '../../../src/nbd/exports.ts';
import type { ClientTaker, NegotiatedClient } from '../../../src/nbd/hand-over.ts';
import { type NbdServer, startNbdServer } from '../../../src/nbd/server.ts';
import { NBD_CMD, NBD_ERROR } from '../../../src/nbdwire/constants.ts';
import { relay } from '../../../src/transport/relay.ts';
import type { GivenSocket } from '../../../src/transport/socket-engine.ts';
import { loadServerCredentials, type ServerCredentials } from '../../../src/transport/tls-credentials.ts';
import { NbdRig, type NbdRigOptions } from '../../support/nbd-rig.ts';
import { infoData, optionBytes, type RawNbdClient, requestBytes } from '../../support/raw-nbd-client.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { RecorderDevice, SparseDevice } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, FLUSH, DISC } = NBD_CMD;
const { OK } = NBD_ERROR;
const KEY = Buffer.alloc(32, 0xab);

/** Hands clients to the other server in the same process; structured cloning stands for the way between two. */
class Passage implements ClientTaker {
  readonly taken: NegotiatedClient[] = [];
  readonly #held: Array<() => void> = [];
  to: NbdServer | undefined;
  holds = false;

  take(client: NegotiatedClient, socket: GivenSocket, gone: () => void): void {
    const cloned = structuredClone(client);
    const sent = { ...cloned, received: Buffer.from(cloned.received) };
    this.taken.push(sent);
    const handle = socket.kind === 'handle' ? socket.handle : relay(socket.stream, loadNativeCalls()!);
    const go = (): void => this.to!.adopt(sent, handle, gone);
    if (this.holds) this.#held.push(go);
    else go();
  }

  letGo(): void {
    for (const go of this.#held.splice(0)) go();
  }
}

const folder = tempDir();
let credentials: ServerCredentials;
beforeAll(async () => {
  const pskFile = folder.file('keys.psk');
  writeFileSync(pskFile, `alice:${KEY.toString('hex')}\n`, { mode: 0o600 });
  credentials = await loadServerCredentials({ pskFile });
});
afterAll(() => folder.remove());

let rig: NbdRig;
let worker: NbdServer;
let passage: Passage;
let device: RecorderDevice;

async function serve(options: NbdRigOptions = {}, more: Partial<ExportSpec> = {}): Promise<void> {
  device = new RecorderDevice(new SparseDevice(8 * MiB));
  const one = { name: 'disk', device };
  passage = new Passage();
  worker = await startNbdServer({ exports: [one], listen: [], logger: silentLogger });
  passage.to = worker;
  rig = await NbdRig.start([{ ...one, ...more }], { taker: passage, ...options });
}

afterEach(async () => {
  passage.letGo();
  await rig.stop();
  await worker.close();
  expect(worker.connectionCount).toBe(0);
});

async function secured(): Promise<RawNbdClient> {
  const plain = await rig.connect();
  await plain.greet();
  return plain.secure({
    pskCallback: () => ({ psk: KEY, identity: 'alice' }),
    ciphers: 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256',
    checkServerIdentity: () => undefined,
  });
}

const isGone = (): Promise<unknown> =>
  waitUntil(() => rig.server.connectionCount === 0, { what: 'the first server to hear of the end' });

/** Writes whose bytes stand for them. */
function writes(count: number): Buffer[] {
  return Array.from({ length: count }, (_, n) =>
    requestBytes({ type: WRITE, cookie: BigInt(n), offset: n * 8192, data: Buffer.alloc(8192, n + 1) }),
  );
}

async function expectWritten(client: RawNbdClient, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    expect(await client.readReply()).toEqual({ error: OK, cookie: BigInt(n) });
  }
  const { data } = await client.request({ type: READ, length: count * 8192 });
  const wanted = Buffer.concat(Array.from({ length: count }, (_, n) => Buffer.alloc(8192, n + 1)));
  expect(data.equals(wanted)).toBe(true);
}

describe.each([{ over: 'TCP' }, { over: 'a unix socket' }])('a client over $over', ({ over }) => {
  const tcp = over === 'TCP';

  it('is carried on by the other server, and counted by the first until it is gone', async () => {
    await serve({ tcp });
    const client = await rig.open('');
    client.send(...writes(3));
    await expectWritten(client, 3);
    expect((await client.request({ type: FLUSH })).error).toBe(OK);
    expect([rig.server.connectionCount, worker.connectionCount]).toEqual([1, 1]);
    const [{ peer, exportName, client: who } = expect.fail('nobody was handed over')] = passage.taken;
    expect(exportName).toBe('disk');
    expect(peer).toMatch(tcp ? /^127\.0\.0\.1:\d+$/ : /^unix$/);
    expect(who.address).toBe(tcp ? '127.0.0.1' : undefined);
    client.send(requestBytes({ type: DISC }));
    expect((await client.readToEnd()).length).toBe(0);
    await client.destroy();
    await isGone();
    expect(worker.connectionCount).toBe(0);
  });

  it('loses nothing that it sent behind its choice, before, while and after it changes hands', async () => {
    await serve({ tcp });
    passage.holds = true;
    const client = await rig.connect();
    await client.greet();
    const all = Buffer.concat([optionBytes(7, infoData('disk')), ...writes(8)]);
    const half = 3 * 8192 + 777;
    client.send(all.subarray(0, half));
    await waitUntil(() => passage.taken.length === 1, { what: 'the hand-over' });
    client.send(all.subarray(half, half + 9000));
    passage.letGo();
    client.send(all.subarray(half + 9000));
    for (let reply = 0; reply !== 1; ) reply = (await client.readOptionReply()).type;
    await expectWritten(client, 8);
    expect(passage.taken[0]!.received.length).toBeGreaterThan(0);
  });

  it('is ended by the server that has it, with what is in flight answered', async () => {
    await serve({ tcp });
    const client = await rig.open('disk');
    await worker.close();
    expect((await client.readToEnd()).length).toBe(0);
    await isGone();
  });

  it('is let go at once by one that is closing, and by one that has no such export', async () => {
    await serve({ tcp });
    passage.holds = true;
    const client = await rig.open('disk');
    await worker.close();
    passage.letGo();
    await client.readToEnd().catch(() => {});
    await isGone();
  });

  it('is not waited for by the first server when that closes', async () => {
    await serve({ tcp });
    const client = await rig.open('disk');
    const from = performance.now();
    await rig.server.close();
    expect(performance.now() - from).toBeLessThan(2000);
    expect((await client.request({ type: FLUSH })).error).toBe(OK);
    expect(worker.connectionCount).toBe(1);
  });
});

describe('handing over', () => {
  it('keeps the size that the client was told', async () => {
    await serve();
    passage.holds = true;
    const client = await rig.open('disk');
    const [given] = passage.taken;
    expect(given!.sizeBytes).toBe(8 * MiB);
    (given as { sizeBytes: number }).sizeBytes = 4 * MiB;
    passage.letGo();
    expect((await client.request({ type: READ, offset: 4 * MiB - 512, length: 512 })).error).toBe(OK);
    expect((await client.request({ type: READ, offset: 4 * MiB, length: 512 })).error).not.toBe(OK);
  });

  it('goes for EXPORT_NAME and for oldstyle too', async () => {
    await serve();
    const client = await rig.connect();
    await client.greet();
    client.send(Buffer.from('IHAVEOPT\0\0\0\x01\0\0\0\x04disk', 'latin1'), ...writes(2));
    await client.read(10);
    await expectWritten(client, 2);
    await rig.stop();
    await serve({ oldstyle: true });
    const old = await rig.connect();
    await old.read(152);
    old.send(...writes(2));
    await expectWritten(old, 2);
    expect(passage.taken).toHaveLength(1);
  });

  it('keeps meta contexts and the style of replies', async () => {
    await serve();
    const client = await rig.connect();
    await client.greet();
    await client.option(8);
    const query = Buffer.from('\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation', 'latin1');
    await client.option(10, query);
    await client.go('disk');
    expect(passage.taken[0]).toMatchObject({ style: 'structured', contexts: [0] });
  });

  it('counts for the limit of connections', async () => {
    await serve({ maxConnections: 1 });
    const first = await rig.open('disk');
    const second = await rig.connect();
    expect((await second.readToEnd()).length).toBe(0);
    await first.destroy();
    await isGone();
    await rig.open('disk');
  });

  it('is given up when the client goes before its choice was answered, or when the server drains', async () => {
    await serve();
    const client = await rig.connect();
    await client.greet();
    client.send(optionBytes(7, infoData('disk')));
    await rig.server.close();
    await client.readToEnd().catch(() => {});
    await isGone();
  });

  it('waits for nobody where an export is absent: the client is told why', async () => {
    let absence: string | undefined = 'its worker has ended';
    await serve({}, { absence: () => absence });
    const client = await rig.connect();
    await client.greet();
    await expect(client.go('disk')).rejects.toThrow('its worker has ended');
    absence = undefined;
    await client.go('disk');
    expect((await client.request({ type: FLUSH })).error).toBe(OK);
  });
});

describe.runIf(loadNativeCalls())('a client inside TLS', () => {
  const tls = (): NbdRigOptions => ({ tls: { mode: 'require', credentials, verifyPeer: false } });

  it('is carried on through a relay, with its identity', async () => {
    await serve(tls());
    const client = await secured();
    await client.go('disk');
    client.send(...writes(200));
    await expectWritten(client, 200);
    expect(passage.taken[0]!.client.tls).toEqual({ kind: 'psk', user: 'alice' });
    client.send(requestBytes({ type: DISC }));
    expect((await client.readToEnd()).length).toBe(0);
    await client.destroy();
    await isGone();
  });

  it('loses nothing that it sent behind its choice', async () => {
    await serve(tls());
    const client = await secured();
    client.send(Buffer.concat([optionBytes(7, infoData('disk')), ...writes(60)]));
    for (let reply = 0; reply !== 1; ) reply = (await client.readOptionReply()).type;
    await expectWritten(client, 60);
  });

  it('is ended when the server that has it ends', async () => {
    await serve(tls());
    const client = await secured();
    await client.go('disk');
    await worker.close();
    expect((await client.readToEnd()).length).toBe(0);
    await isGone();
  });
});
