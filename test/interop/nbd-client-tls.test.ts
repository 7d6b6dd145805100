// The NBD client device over TLS, against nbdkit and qemu-nbd: by certificate and by key, who is trusted and who is
// not, never in plain text where TLS was asked for, and again with the same demands after the server was killed.
import fs from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { type NbdDevice, type OpenNbdOptions, openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { OrderedDevice } from '../../src/blockdev/ordered-device.ts';
import { readBack } from '../support/block-device-suite.ts';
import { DiskModel, pattern } from '../support/disk-model.ts';
import { tempDir } from '../support/temp-dir.ts';
import { addPskUser, TestCa } from '../support/tls-files.ts';
import { freePort, type NbdServer, type Place, startNbdkitAt, startQemuNbdAt } from './nbd-servers.ts';

const SIZE = 4 * MiB;
const folder = tempDir();
let ends: Array<() => Promise<unknown>> = [];
let serverDir: string;
let clientDir: string;
let strangerDir: string;
let keys: string;
let otherKeys: string;

beforeAll(async () => {
  const ca = await TestCa.create(folder.file('ca'));
  const stranger = await TestCa.create(folder.file('stranger-ca'));
  const altNames = 'DNS:localhost,DNS:disk.example,IP:127.0.0.1';
  serverDir = await ca.issue(folder.file('server'), 'server', { name: 'disk.example', altNames });
  clientDir = await ca.issue(folder.file('client'), 'client', { name: 'vm1' });
  strangerDir = await stranger.issue(folder.file('stranger'), 'client', { name: 'vm1' });
  keys = await addPskUser(folder.file('keys.psk'), 'alice');
  await addPskUser(keys, 'bob');
  otherKeys = await addPskUser(folder.file('other.psk'), 'alice');
}, 60_000);
afterEach(async () => {
  for (const end of ends.reverse()) await end();
  ends = [];
});
afterAll(() => folder.remove());

async function nbdkit(args: readonly string[], place?: Place): Promise<{ server: NbdServer; port: number }> {
  const port = await freePort();
  const server = await startNbdkitAt(place ?? { port }, args);
  ends.push(() => server.stop());
  return { server, port };
}

async function open(uri: string, options: Partial<OpenNbdOptions> = {}): Promise<NbdDevice> {
  const device = await openNbdDevice(uri, { logger: silentLogger, ...options });
  ends.push(() => device.close().catch(() => {}));
  return device;
}

async function refusal(uri: string): Promise<{ message: string; hint: string | undefined }> {
  try {
    await open(uri);
  } catch (error) {
    return error as { message: string; hint: string | undefined };
  }
  return expect.fail('it was opened');
}

async function exercise(device: NbdDevice): Promise<void> {
  const model = new DiskModel(device.sizeBytes);
  const work: unknown[] = [];
  for (let i = 0; i < 40; i += 1) {
    const data = pattern(i === 7 ? MiB : 4096 + 512 * i, i);
    const offset = i === 7 ? 2 * MiB : i * 32768;
    work.push(device.write(offset, data, i % 7 === 0));
    model.write(offset, data);
  }
  await Promise.all(work);
  await device.trim(2 * MiB, 65536, false);
  model.zero(2 * MiB, 65536);
  await device.flush();
  expect(model.firstDifference(await readBack(device, 0, device.sizeBytes))).toBe(-1);
}

const requireX509 = (): string[] => [
  '--tls=require',
  `--tls-certificates=${serverDir}`,
  'memory',
  String(SIZE),
];
const requirePsk = (): string[] => ['--tls=require', `--tls-psk=${keys}`, 'memory', String(SIZE)];

describe('nbdkit', () => {
  it('proves itself by a certificate, for its name and for its address', async () => {
    const { port } = await nbdkit(requireX509());
    await exercise(await open(`nbds://localhost:${port}/?tls-certificates=${clientDir}`));
    await exercise(await open(`nbds://127.0.0.1:${port}/?tls-certificates=${clientDir}`));
  });

  it('asks for our certificate, and gets it, or refuses', async () => {
    const { port } = await nbdkit(['--tls-verify-peer', ...requireX509()]);
    await exercise(await open(`nbds://localhost:${port}/?tls-certificates=${clientDir}`));
    const bare = folder.file('ca-only');
    fs.mkdirSync(bare, { recursive: true });
    fs.copyFileSync(`${clientDir}/ca-cert.pem`, `${bare}/ca-cert.pem`);
    expect((await refusal(`nbds://localhost:${port}/?tls-certificates=${bare}`)).message).toBeTruthy();
  });

  it('knows our key, over TCP and a unix socket', async () => {
    const { port } = await nbdkit(requirePsk());
    await exercise(await open(`nbds://alice@localhost:${port}/?tls-psk-file=${keys}`));
    const socket = folder.file('s');
    await nbdkit(requirePsk(), { socket });
    await exercise(await open(`nbds+unix:///?socket=${socket}&tls-psk-file=${keys}&tls-username=bob`));
  });

  it('is not trusted with another key, another CA, or another name', async () => {
    const { port } = await nbdkit(requireX509());
    const stranger = await refusal(`nbds://localhost:${port}/?tls-certificates=${strangerDir}`);
    expect(stranger.message).toMatch(/certificate/);
    const uri = `nbds://localhost:${port}/?tls-certificates=${clientDir}`;
    expect((await refusal(`${uri}&tls-hostname=evil.example`)).message).toMatch(
      /another name.*evil\.example/,
    );
    await exercise(await open(`${uri}&tls-hostname=disk.example`));
    const psk = await nbdkit(requirePsk());
    const wrongKey = await refusal(`nbds://localhost:${psk.port}/?tls-psk-file=${otherKeys}`);
    expect(wrongKey.message).toContain(`nbds://localhost:${psk.port}/`);
    expect((await refusal(`nbds://localhost:${psk.port}/?tls-psk-file=${keys}`)).message).toContain(
      'several keys',
    );
  });

  it('is left when it has no TLS and TLS was asked for', async () => {
    const { port } = await nbdkit(['--tls=off', 'memory', '1M']);
    const error = await refusal(`nbds://localhost:${port}/?tls-certificates=${clientDir}`);
    expect(error.message).toMatch(/the server has no TLS/);
    const old = await nbdkit(['--mask-handshake=0', 'memory', '1M']);
    expect((await refusal(`nbds://localhost:${old.port}/?tls-certificates=${clientDir}`)).message).toMatch(
      /no TLS/,
    );
  });

  it('names the secure form to whoever comes without', async () => {
    const { port } = await nbdkit(requireX509());
    const error = await refusal(`nbd://localhost:${port}/x`);
    expect(error.message).toMatch(/requires TLS/);
    expect(error.hint).toContain(`nbds://localhost:${port}/x?tls-certificates=DIR`);
  });

  it('says which file is missing', async () => {
    const error = await refusal('nbds://localhost:1/?tls-certificates=/no/such/dir');
    expect(error.message).toContain('/no/such/dir does not exist');
    expect(error.hint).toBeTruthy();
  });
});

describe('qemu-nbd', () => {
  const certificates = (): string[] => [
    '--object',
    `tls-creds-x509,id=t,endpoint=server,dir=${serverDir},verify-peer=yes`,
    '--tls-creds=t',
  ];
  const psk = (): string[] => {
    const dir = folder.file('qemu-psk');
    fs.mkdirSync(dir, { recursive: true });
    fs.copyFileSync(keys, `${dir}/keys.psk`);
    return ['--object', `tls-creds-psk,id=t,endpoint=server,dir=${dir}`, '--tls-creds=t'];
  };
  it.each(['x509', 'psk'])('with %s', async (kind) => {
    const path = folder.file(`${kind}.img`);
    fs.writeFileSync(path, '');
    fs.truncateSync(path, SIZE);
    const port = await freePort();
    const args = [...(kind === 'x509' ? certificates() : psk()), '--format=raw', path];
    const server = await startQemuNbdAt({ port }, args);
    ends.push(() => server.stop());
    const tls = kind === 'x509' ? `tls-certificates=${clientDir}` : `tls-psk-file=${keys}&tls-username=alice`;
    await exercise(await open(`nbds://localhost:${port}/?${tls}`));
    expect((await refusal(`nbd://localhost:${port}/`)).message).toMatch(/requires TLS/);
  });
});

it('loses nothing when the server is killed under load, and comes back over TLS', async () => {
  const path = folder.file('killed.img');
  fs.writeFileSync(path, '');
  fs.truncateSync(path, SIZE);
  const args = ['--tls=require', `--tls-psk=${keys}`, '--filter=delay', 'file', path, 'delay-write=1ms'];
  const { server, port } = await nbdkit(args);
  const device = new OrderedDevice(
    await open(`nbds://bob@localhost:${port}/?tls-psk-file=${keys}`, { connections: 4 }),
  );
  const model = new DiskModel(SIZE);
  let rounds = 0;
  let running = true;
  const lane = async (number: number): Promise<void> => {
    for (let round = 0; running; round += 1) {
      const offset = number * MiB + ((round * 7) % 128) * 8192;
      const data = pattern(8192, number * 100_000 + round);
      await device.write(offset, data, round % 13 === 0);
      model.write(offset, data);
      if (round % 17 === 0) await device.flush();
      rounds += 1;
    }
  };
  const lanes = Promise.all([0, 1, 2, 3].map(lane));
  for (let kills = 0; kills < 3; kills += 1) {
    const before = rounds;
    while (rounds < before + 60) await new Promise((resolve) => setTimeout(resolve, 1));
    await server.kill();
    await server.restart();
  }
  running = false;
  await lanes;
  await device.flush();
  expect(model.firstDifference(await readBack(device, 0, SIZE))).toBe(-1);
  expect(model.firstDifference(fs.readFileSync(path))).toBe(-1);
});

/** Sits between and adds `words` to what the server says at `moment`: right behind the answer to STARTTLS. */
async function injector(target: number, words: Buffer): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
    }
    client.pipe(upstream);
    upstream.on('data', (chunk: Buffer) => {
      const ack = Buffer.from('0003e889045565a9' + '00000005' + '00000001' + '00000000', 'hex');
      const at = chunk.indexOf(ack);
      client.write(at < 0 ? chunk : Buffer.concat([chunk, words]));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as { port: number }).port;
}

it('takes no word in plain text that somebody slips in behind STARTTLS', async () => {
  const { port } = await nbdkit(requireX509());
  const clean = await injector(port, Buffer.alloc(0));
  await exercise(await open(`nbds://localhost:${clean}/?tls-certificates=${clientDir}`));
  const evil = await injector(port, Buffer.from('0003e889045565a90000000b8000000100000000', 'hex'));
  const error = await refusal(`nbds://localhost:${evil}/?tls-certificates=${clientDir}`);
  expect(error.message).toMatch(/plain text behind its answer to STARTTLS/);
});
