// Images in QEMU's formats: the suite over qcow2 through a real qemu-nbd, and what happens when that process fails.
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { BlockError, OperationError, UsageError } from '../../src/base/errors.ts';
import { KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openImage } from '../../src/blockdev/open-image.ts';
import { openQemuImage } from '../../src/blockdev/qemu-nbd.ts';
import { blockDeviceSuite, readBack, settled } from '../support/block-device-suite.ts';
import { pattern } from '../support/disk-model.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

function create(image: string, format: string, sizeBytes: number): void {
  execFileSync('qemu-img', ['create', '-q', '-f', format, image, String(sizeBytes)]);
}

blockDeviceSuite(
  'qcow2 image',
  async ({ sizeBytes }) => {
    const dir = tempDir();
    const options = { source: dir.file('disk.qcow2'), format: 'qcow2', logger: silentLogger };
    create(options.source, 'qcow2', sizeBytes);
    const device = await openImage(options);
    return {
      device,
      async reopen() {
        await device.close();
        return openImage(options);
      },
      cleanup: async () => dir.remove(),
    };
  },
  { runs: 5 },
);

describe('an image behind qemu-nbd', () => {
  const dirs: TempDir[] = [];
  const devices: BlockDevice[] = [];

  afterEach(async () => {
    for (const device of devices.splice(0)) await device.close();
    for (const dir of dirs.splice(0)) dir.remove();
  });

  function image(format: string, sizeBytes = 1 * MiB): string {
    const dir = tempDir();
    dirs.push(dir);
    // A name that QEMU would take for a protocol, were it not made absolute.
    const file = dir.file(`odd:name, with spaces.${format}`);
    create(file, format, sizeBytes);
    return file;
  }

  async function open(file: string, format: string, readOnly = false) {
    const device = await openQemuImage({ path: file, format, readOnly, logger: silentLogger });
    devices.push(device);
    return device;
  }

  for (const format of ['qcow2', 'vmdk', 'vhdx', 'vdi', 'qed']) {
    it(`is read and written as ${format}`, async () => {
      const file = image(format, 8 * MiB);
      const device = await open(file, format);
      expect(device.sizeBytes).toBe(8 * MiB);
      await device.write(1 * MiB, pattern(64 * KiB, 1), true);
      await device.close();
      const raw = `${file}.raw`;
      execFileSync('qemu-img', ['convert', '-f', format, '-O', 'raw', file, raw]);
      const bytes = fs.readFileSync(raw);
      expect(bytes.subarray(1 * MiB, 1 * MiB + 64 * KiB).equals(pattern(64 * KiB, 1))).toBe(true);
      expect(bytes.subarray(0, 1 * MiB).equals(Buffer.alloc(1 * MiB))).toBe(true);
    });
  }

  it('is refused for writing when it is opened read-only', async () => {
    const device = await open(image('qcow2'), 'qcow2', true);
    expect(device.limits.readOnly).toBe(true);
    expect((await readBack(device, 0, 4 * KiB)).equals(Buffer.alloc(4 * KiB))).toBe(true);
  });

  it('leaves no process and no socket behind', async () => {
    const device = await open(image('qcow2'), 'qcow2');
    const pid = device.pid!;
    const directory = socketDirectory(pid);
    expect(fs.statSync(directory).mode % 0o1000).toBe(0o700);
    await device.close();
    await device.close();
    expect(isRunning(pid)).toBe(false);
    expect(fs.existsSync(directory)).toBe(false);
  });

  it('fails every call with the reason once its qemu-nbd was killed, those in flight too', async () => {
    const lines: string[] = [];
    const logger = pino({ level: 'error' }, { write: (line: string) => lines.push(line) });
    const file = image('qcow2', 64 * MiB);
    const device = await openQemuImage({ path: file, format: 'qcow2', logger });
    devices.push(device);
    const pid = device.pid!;
    process.kill(pid, 'SIGSTOP');
    const inFlight = settled(() => device.write(0, pattern(64 * KiB, 1), false));
    process.kill(pid, 'SIGKILL');
    const outcome = await inFlight;
    expect(outcome).toBeInstanceOf(BlockError);
    await waitUntil(() => !isRunning(pid), { what: 'the end of qemu-nbd' });
    const later = await settled(() => device.read(0, Buffer.alloc(512)));
    expect(later).toMatchObject({ code: 'EIO', message: expect.stringContaining('SIGKILL') });
    expect(lines.filter((line) => line.includes('SIGKILL'))).toHaveLength(1);
  });

  it('says what qemu-nbd says about a wrong or unknown format', async () => {
    const file = image('qcow2');
    const wrong = await settled(() => open(file, 'vmdk'));
    expect(wrong).toBeInstanceOf(OperationError);
    expect(wrong).toMatchObject({ message: expect.stringContaining('as vmdk') });
    const unknown = await settled(() => open(file, 'nosuchformat'));
    expect(unknown).toMatchObject({ message: expect.stringMatching(/nosuchformat.*[Uu]nknown driver/) });
    expect(await settled(() => open(file, '--help'))).toBeInstanceOf(UsageError);
  });

  it('says that another program has the image', async () => {
    const file = image('qcow2');
    await open(file, 'qcow2');
    const second = await settled(() => open(file, 'qcow2'));
    expect(second).toMatchObject({
      message: expect.stringContaining('lock'),
      hint: expect.stringContaining('stop'),
    });
  });

  it('says how to install a missing qemu-nbd, and that an image is missing', async () => {
    const file = image('qcow2');
    const options = { path: file, format: 'qcow2', logger: silentLogger };
    const missing = await settled(() => openQemuImage({ ...options, program: 'no-such-qemu-nbd' }));
    expect(missing).toMatchObject({
      message: expect.stringContaining('not found'),
      hint: 'apt-get install qemu-utils',
    });
    const noImage = await settled(() => openQemuImage({ ...options, path: `${file}.gone` }));
    expect(noImage).toMatchObject({ message: expect.stringContaining('no such image') });
  });

  it('keeps nothing running when this process is killed', async () => {
    const file = image('qcow2');
    const script = `
      import { openImage } from ${JSON.stringify(path.resolve('dist/blockdev/open-image.js'))};
      import { silentLogger } from ${JSON.stringify(path.resolve('dist/base/log.js'))};
      await openImage({ source: process.argv[1], format: 'qcow2', logger: silentLogger });
      process.stdout.write('opened', () => process.kill(process.pid, 'SIGKILL'));`;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script, file], {
      encoding: 'utf8',
      // What the killed process can't remove is removed with the image's directory.
      env: { ...process.env, TMPDIR: path.dirname(file) },
    });
    expect(run).toMatchObject({ stdout: 'opened', signal: 'SIGKILL' });
    await waitUntil(() => serversOf(file).length === 0, { what: 'the end of qemu-nbd' });
  });
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function commandLine(pid: number | string): string[] {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** Process ids of every qemu-nbd that serves `file`. */
function serversOf(file: string): string[] {
  return fs.readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    const [program = '', ...rest] = commandLine(pid);
    return program.endsWith('qemu-nbd') && rest.includes(file);
  });
}

function socketDirectory(pid: number): string {
  const option = commandLine(pid).find((word) => word.startsWith('--socket='));
  return path.dirname(option!.slice('--socket='.length));
}
