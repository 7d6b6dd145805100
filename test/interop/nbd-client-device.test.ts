// The NBD client device against the servers that people run: nbdkit with its filters, and qemu-nbd, over TCP and unix
// sockets, refused by them, and killed under load.
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { type NbdDevice, type OpenNbdOptions, openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { OrderedDevice } from '../../src/blockdev/ordered-device.ts';
import { readBack } from '../support/block-device-suite.ts';
import { captureLog } from '../support/capture-log.ts';
import { DiskModel, pattern } from '../support/disk-model.ts';
import { runPeerOk } from '../support/peers.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { freePort, type NbdServer, type Place, startNbdkitAt, startQemuNbdAt } from './nbd-servers.ts';

const SIZE = 16 * MiB;

let folder: TempDir;
let ends: Array<() => Promise<unknown>>;

beforeEach(() => {
  folder = tempDir();
  ends = [];
});
afterEach(async () => {
  for (const end of ends.reverse()) await end();
  folder.remove();
});

function socket(): Place {
  return { socket: folder.file('nbd.sock') };
}

async function nbdkit(args: readonly string[], place = socket()): Promise<NbdServer> {
  const server = await startNbdkitAt(place, args);
  ends.push(() => server.stop());
  return server;
}

async function qemuNbd(args: readonly string[], place = socket()): Promise<NbdServer> {
  const server = await startQemuNbdAt(place, args);
  ends.push(() => server.stop());
  return server;
}

async function open(server: NbdServer, options: Partial<OpenNbdOptions> = {}): Promise<NbdDevice> {
  const device = await openNbdDevice(server.uri, { logger: silentLogger, ...options });
  ends.push(() => device.close().catch(() => {}));
  return device;
}

function image(name = 'disk.img', sizeBytes = SIZE): string {
  const path = folder.file(name);
  fs.writeFileSync(path, '');
  fs.truncateSync(path, sizeBytes);
  return path;
}

async function refusal(uri: string): Promise<string> {
  try {
    const device = await openNbdDevice(uri, { logger: silentLogger });
    await device.close();
  } catch (error) {
    return String(error);
  }
  return expect.fail('it was opened');
}

/** Every kind of change, some large, some in flight together; returns what the disk should hold. */
async function exercise(device: BlockDevice): Promise<DiskModel> {
  const model = new DiskModel(device.sizeBytes);
  const big = pattern(5 * MiB, 1);
  await device.write(1 * MiB, big, false);
  model.write(1 * MiB, big);
  const writes: unknown[] = [];
  for (let i = 0; i < 64; i += 1) {
    const data = pattern(4 * KiB, i);
    writes.push(device.write(8 * MiB + i * 8 * KiB, data, i % 5 === 0));
    model.write(8 * MiB + i * 8 * KiB, data);
  }
  await Promise.all(writes);
  await device.trim(2 * MiB, 1 * MiB, false);
  model.zero(2 * MiB, 1 * MiB);
  await device.writeZeroes(4 * MiB + 4 * KiB, 64 * KiB, true, false);
  model.zero(4 * MiB + 4 * KiB, 64 * KiB);
  await device.cache(0, 1 * MiB);
  await device.flush();
  return model;
}

async function verify(device: BlockDevice, model: DiskModel): Promise<void> {
  expect(model.firstDifference(await readBack(device, 0, device.sizeBytes))).toBe(-1);
}

function verifyFile(path: string, model: DiskModel): void {
  expect(model.firstDifference(fs.readFileSync(path))).toBe(-1);
}

describe('nbdkit', () => {
  for (const transport of ['unix', 'tcp'] as const) {
    it(`holds what was written, over ${transport}`, async () => {
      const path = image();
      const place = transport === 'unix' ? socket() : { port: await freePort() };
      const device = await open(await nbdkit(['file', path], place));
      expect(device.sizeBytes).toBe(SIZE);
      const model = await exercise(device);
      await verify(device, model);
      await device.close();
      verifyFile(path, model);
    });
  }

  it('is found by a host name', async () => {
    const port = await freePort();
    await nbdkit(['memory', '1M'], { port });
    const device = await openNbdDevice(`nbd://localhost:${port}`, { logger: silentLogger });
    expect(device.sizeBytes).toBe(1 * MiB);
    await device.close();
  });

  const filters: Array<[string, string[]]> = [
    ['one request at a time', ['--filter=noparallel', 'memory', '16M', 'serialize=requests']],
    ['slow answers', ['--filter=delay', 'memory', '16M', 'delay-read=3ms', 'delay-write=3ms']],
    ['no WRITE_ZEROES', ['--filter=nozero', 'memory', '16M', 'zeromode=none']],
    ['FUA by flush', ['--filter=fua', 'memory', '16M', 'fuamode=emulate']],
    ['no zeroes after EXPORT_NAME', ['--mask-handshake=1', 'memory', '16M']],
    ['newstyle that is not fixed', ['--mask-handshake=2', 'memory', '16M']],
    ['the oldest newstyle', ['--mask-handshake=0', 'memory', '16M']],
    ['a cache of its own', ['--filter=cache', 'memory', '16M', 'cache-on-read=true']],
    ['copy on write', ['--filter=cow', 'memory', '16M']],
  ];
  for (const [name, args] of filters) {
    it(`works with ${name}`, async () => {
      const device = await open(await nbdkit(args));
      await verify(device, await exercise(device));
    });
  }

  it('answers slow requests together', async () => {
    const device = await open(await nbdkit(['--filter=delay', 'memory', '16M', 'delay-read=100ms']));
    const began = performance.now();
    await Promise.all(Array.from({ length: 16 }, (_, i) => device.read(i * 4096, Buffer.alloc(4096))));
    expect(performance.now() - began).toBeLessThan(1000);
  });

  it('has its block sizes respected', async () => {
    const args = ['blocksize-minimum=4096', 'blocksize-preferred=65536', 'blocksize-maximum=131072'];
    const device = await open(
      await nbdkit(['--filter=blocksize-policy', 'memory', '16M', ...args, 'blocksize-error-policy=error']),
    );
    expect(device.limits).toMatchObject({ minBlockBytes: 4096, preferredBlockBytes: 65536 });
    await verify(device, await exercise(device));
  });

  const errors: Array<[string, string, (device: NbdDevice) => unknown]> = [
    ['pread', 'EIO', (device) => device.read(0, Buffer.alloc(512))],
    ['pwrite', 'ENOSPC', (device) => device.write(0, Buffer.alloc(512), false)],
    ['zero', 'EPERM', (device) => device.trim(0, 4096, false)],
    ['pwrite', 'ENOMEM', (device) => device.write(0, Buffer.alloc(512), false)],
  ];
  for (const [call, code, run] of errors) {
    it(`has its ${code} for ${call} passed on`, async () => {
      const args = ['--filter=error', 'memory', '16M', `error=${code}`, `error-${call}-rate=100%`];
      const device = await open(await nbdkit(args));
      await expect((async () => run(device))()).rejects.toMatchObject({ name: 'BlockError', code });
      await device.flush();
    });
  }

  it('may fail half of the time', async () => {
    const args = ['--filter=error', 'memory', '1M', 'error=EIO', 'error-rate=50%'];
    const device = await open(await nbdkit(args));
    const insist = async (call: () => unknown): Promise<void> => {
      for (;;) {
        try {
          await call();
          return;
        } catch (error) {
          expect(error).toMatchObject({ code: 'EIO' });
        }
      }
    };
    const model = new DiskModel(1 * MiB);
    for (let i = 0; i < 64; i += 1) {
      const data = pattern(4096, i);
      await insist(() => device.write(i * 8192, data, false));
      model.write(i * 8192, data);
    }
    const target = Buffer.alloc(1 * MiB);
    await insist(() => device.read(0, target));
    expect(model.firstDifference(target)).toBe(-1);
    await insist(() => device.flush());
  });

  it('is read-only with -r', async () => {
    const path = image();
    fs.writeFileSync(path, pattern(SIZE, 4));
    const device = await open(await nbdkit(['--readonly', 'file', path]));
    expect(device.limits.readOnly).toBe(true);
    expect((await readBack(device, 0, SIZE)).equals(pattern(SIZE, 4))).toBe(true);
    expect(() => device.write(0, Buffer.alloc(512), false)).toThrow('read-only');
    await device.flush();
  });

  it('serves exports by name, and none that it does not have', async () => {
    const args = ['--filter=exportname', 'memory', '1M', 'exportname=a/b c', 'exportname-strict=true'];
    const server = await nbdkit(args);
    const named = (name: string): string => server.uri.replace('nbd+unix:///', `nbd+unix:///${name}`);
    const device = await openNbdDevice(named('a%2Fb%20c'), { logger: silentLogger });
    expect(device.sizeBytes).toBe(1 * MiB);
    await device.close();
    expect(await refusal(named('ab'))).toContain('no export "ab"');
  });

  it('is refused when it speaks oldstyle', async () => {
    const server = await nbdkit(['--oldstyle', 'memory', '1M']);
    expect(await refusal(server.uri)).toContain('oldstyle');
  });

  it('is refused when it requires TLS', async () => {
    const keys = folder.file('keys.psk');
    fs.writeFileSync(keys, `qemu:${'ab'.repeat(32)}\n`);
    const server = await nbdkit(['--tls=require', `--tls-psk=${keys}`, 'memory', '1M']);
    expect(await refusal(server.uri)).toMatch(/requires TLS/);
  });

  it('is refused when its disk is no whole number of sectors', async () => {
    const server = await nbdkit(['memory', '1000']);
    expect(await refusal(server.uri)).toMatch(/1000 bytes large.*make it 1024 bytes/);
  });

  it('is refused when its disk is larger than can be counted', async () => {
    const server = await nbdkit(['null', String(2n ** 63n - 512n)]);
    expect(await refusal(server.uri)).toContain('9223372036854775296');
  });
});

describe('qemu-nbd', () => {
  for (const transport of ['unix', 'tcp'] as const) {
    it(`holds what was written to a raw file, over ${transport}`, async () => {
      const path = image();
      const place = transport === 'unix' ? socket() : { port: await freePort() };
      const device = await open(await qemuNbd(['--format=raw', path], place));
      const model = await exercise(device);
      await verify(device, model);
      await device.close();
      verifyFile(path, model);
    });
  }

  it('holds what was written to a qcow2 image', async () => {
    const path = folder.file('disk.qcow2');
    await runPeerOk('qemu-img', ['create', '-q', '-f', 'qcow2', path, String(SIZE)]);
    const server = await qemuNbd(['--format=qcow2', '--discard=unmap', path]);
    const device = await open(server);
    const model = await exercise(device);
    await verify(device, model);
    await device.close();
    await server.stop();
    await runPeerOk('qemu-img', ['check', '-q', path]);
    const raw = folder.file('out.raw');
    await runPeerOk('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, raw]);
    verifyFile(raw, model);
  });

  it('serves a named export, read-only', async () => {
    const path = image();
    const server = await qemuNbd(['--format=raw', '--read-only', '--export-name=disk one', path]);
    expect(await refusal(server.uri)).toMatch(/no export ""/);
    const uri = server.uri.replace('nbd+unix:///', 'nbd+unix:///disk%20one');
    const device = await openNbdDevice(uri, { logger: silentLogger });
    expect(device.limits.readOnly).toBe(true);
    await device.close();
  });
});

describe('a server that is killed under load', () => {
  /** Writes and reads in eight lanes until told to stop; returns what the disk should hold. */
  function load(device: BlockDevice): { model: DiskModel; rounds: () => number; stop(): Promise<unknown> } {
    const model = new DiskModel(SIZE);
    let rounds = 0;
    let running = true;
    const lane = async (number: number): Promise<void> => {
      const base = number * 2 * MiB;
      for (let round = 0; running; round += 1) {
        const offset = base + ((round * 7) % 256) * 8 * KiB;
        const seed = number * 100_000 + round;
        if (round % 11 === 10) {
          await device.trim(offset, 8 * KiB, false);
          model.zero(offset, 8 * KiB);
        } else {
          await device.write(offset, pattern(8 * KiB, seed), round % 13 === 0);
          model.write(offset, pattern(8 * KiB, seed));
        }
        if (round % 17 === 0) await device.flush();
        const target = await readBack(device, offset, 8 * KiB);
        expect(target.equals(model.bytes.subarray(offset, offset + 8 * KiB))).toBe(true);
        rounds += 1;
      }
    };
    const lanes = Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(lane));
    lanes.catch(() => {});
    return {
      model,
      rounds: () => rounds,
      stop: () => {
        running = false;
        return lanes;
      },
    };
  }

  async function killUnder(
    server: NbdServer,
    times: number,
  ): Promise<{ device: NbdDevice; model: DiskModel }> {
    const log = captureLog();
    const device = await open(server, { logger: log.logger });
    const work = load(new OrderedDevice(device));
    for (let round = 0; round < times; round += 1) {
      const before = work.rounds();
      while (work.rounds() < before + 100) await new Promise((resolve) => setTimeout(resolve, 1));
      await server.kill();
      await server.restart();
    }
    await work.stop();
    expect(log.errors()).toEqual([]);
    expect(log.lines().filter((line) => line.msg === 'NBD server is back').length).toBe(times);
    await device.flush();
    await verify(device, work.model);
    return { device, model: work.model };
  }

  for (const transport of ['unix', 'tcp'] as const) {
    it(`loses nothing: nbdkit with a file, over ${transport}`, async () => {
      const path = image();
      const place = transport === 'unix' ? socket() : { port: await freePort() };
      const server = await nbdkit(['--filter=delay', 'file', path, 'delay-write=1ms'], place);
      const { device, model } = await killUnder(server, 5);
      await device.close();
      verifyFile(path, model);
    });
  }

  it('loses nothing: nbdkit whose memory dies with it', async () => {
    // Everything since the last flush is in the log; nothing was flushed before the first kill.
    const server = await nbdkit(['memory', String(SIZE)]);
    const device = await open(server);
    const model = new DiskModel(SIZE);
    for (let i = 0; i < 500; i += 1) {
      const data = pattern(4 * KiB, i);
      await device.write(i * 4 * KiB, data, false);
      model.write(i * 4 * KiB, data);
    }
    await server.kill();
    await server.restart();
    await verify(device, model);
  });

  it('loses nothing: qemu-nbd with a qcow2 image, whose tables are in its own cache', async () => {
    const path = folder.file('disk.qcow2');
    await runPeerOk('qemu-img', ['create', '-q', '-f', 'qcow2', path, String(SIZE)]);
    const server = await qemuNbd(['--format=qcow2', path]);
    const { device, model } = await killUnder(server, 3);
    await device.close();
    await server.stop();
    const raw = folder.file('out.raw');
    await runPeerOk('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, raw]);
    verifyFile(raw, model);
  });

  it('fails requests when it is not started again, and serves them once it is', async () => {
    const server = await nbdkit(['file', image()]);
    const device = await open(server, { reconnectTimeoutMs: 200 });
    await device.write(0, pattern(512, 1), false);
    await server.kill();
    await expect((async () => device.write(512, pattern(512, 2), false))()).rejects.toMatchObject({
      code: 'EIO',
    });
    await server.restart();
    for (;;) {
      try {
        await device.write(512, pattern(512, 2), false);
        break;
      } catch (error) {
        expect(error).toMatchObject({ code: 'EIO' });
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    await device.flush();
  });
});
