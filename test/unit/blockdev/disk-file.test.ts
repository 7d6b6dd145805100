import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { MiB, TiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { loadNativeCalls, type NativeCalls } from '../../../src/base/native-calls.ts';
import { type DiskFile, openDiskFile } from '../../../src/blockdev/disk-file.ts';
import { sizeByReading } from '../../../src/blockdev/disk-size.ts';
import { settled } from '../../support/block-device-suite.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

describe('openDiskFile', () => {
  let dir: TempDir;
  let image: string;
  const opened: DiskFile[] = [];

  beforeEach(() => {
    dir = tempDir();
    image = dir.file("my disk's.img");
  });

  afterEach(() => {
    for (const { fd } of opened.splice(0)) fs.closeSync(fd);
    dir.remove();
  });

  async function open(
    options: { path?: string; readOnly?: boolean; createSizeBytes?: number; native?: NativeCalls } = {},
  ): Promise<DiskFile> {
    const file = await openDiskFile({
      path: image,
      readOnly: false,
      native: loadNativeCalls(),
      logger: silentLogger,
      ...options,
    });
    opened.push(file);
    return file;
  }

  function make(sizeBytes: number): void {
    fs.writeFileSync(image, '');
    fs.truncateSync(image, sizeBytes);
  }

  it('opens an image and tells its size', async () => {
    make(1 * MiB);
    expect(await open()).toMatchObject({ sizeBytes: 1 * MiB, isBlockDevice: false });
  });

  it('creates a sparse image, readable by its owner alone', async () => {
    expect(await open({ createSizeBytes: 1 * TiB })).toMatchObject({ sizeBytes: 1 * TiB });
    const stat = fs.statSync(image);
    expect(stat.size).toBe(1 * TiB);
    expect(stat.blocks).toBeLessThan(1000);
    expect(stat.mode % 0o1000).toBe(0o600);
  });

  it('opens what is there when the size to create matches, and changes nothing', async () => {
    fs.writeFileSync(image, Buffer.alloc(1024, 7));
    await open({ createSizeBytes: 1024 });
    expect(fs.readFileSync(image).equals(Buffer.alloc(1024, 7))).toBe(true);
  });

  it('names both sizes when they differ, and changes nothing', async () => {
    make(1024);
    expect(await settled(() => open({ createSizeBytes: 2048 }))).toMatchObject({
      message: expect.stringMatching(/1024 bytes.*2048 bytes/),
      hint: expect.stringContaining('--create'),
    });
    expect(fs.statSync(image).size).toBe(1024);
  });

  it('refuses a missing image, with the option that makes one', async () => {
    const error = await settled(() => open());
    expect(error).toBeInstanceOf(OperationError);
    expect(error).toMatchObject({ hint: expect.stringContaining('--create SIZE') });
    expect(fs.existsSync(image)).toBe(false);
    expect(await settled(() => open({ readOnly: true }))).toMatchObject({
      hint: expect.not.stringContaining('--create'),
    });
  });

  it('refuses a size that is no multiple of 512, with a command that works', async () => {
    for (const [sizeBytes, whole] of [
      [1, 512],
      [1000, 1024],
      [1025, 1536],
    ] as const) {
      make(sizeBytes);
      const error = (await settled(() => open())) as OperationError;
      expect(error).toBeInstanceOf(OperationError);
      expect(error.hint).toContain(`truncate -s ${whole} `);
      execFileSync('sh', ['-c', error.hint!]);
      expect(await open()).toMatchObject({ sizeBytes: whole });
      fs.rmSync(image);
    }
  });

  it('refuses an empty image', async () => {
    make(0);
    expect(await settled(() => open())).toMatchObject({
      message: expect.stringContaining('is empty'),
      hint: expect.stringContaining('truncate -s 20G'),
    });
  });

  it('refuses sizes to create that no disk has, and to create for reading', async () => {
    for (const createSizeBytes of [0, -512, 1000, 512.5, Number.NaN, 2 ** 53]) {
      expect(await settled(() => open({ createSizeBytes }))).toBeInstanceOf(UsageError);
    }
    expect(await settled(() => open({ createSizeBytes: 512, readOnly: true }))).toBeInstanceOf(UsageError);
    expect(fs.existsSync(image)).toBe(false);
  });

  it('leaves nothing behind when the file system cannot hold the size', async () => {
    // 8 PiB: above what ext4, xfs on small blocks and tmpfs allow, or else a size that works.
    const outcome = await settled(() => open({ createSizeBytes: 2 ** 53 - 1024 }));
    if (outcome === 'ok') return;
    expect(outcome).toBeInstanceOf(OperationError);
    expect(fs.existsSync(image)).toBe(false);
  });

  it('refuses what is not a disk, without waiting for it', async () => {
    const outcomes: unknown[] = [];
    outcomes.push(await settled(() => open({ path: dir.path })));
    const socket = dir.file('socket');
    const server = net.createServer().listen(socket);
    await new Promise((resolve) => server.once('listening', resolve));
    outcomes.push(await settled(() => open({ path: socket })));
    await new Promise((resolve) => server.close(resolve));
    const pipe = dir.file('pipe');
    execFileSync('mkfifo', [pipe]);
    outcomes.push(await settled(() => open({ path: pipe })));
    outcomes.push(await settled(() => open({ path: '/dev/null' })));
    const kinds = ['a directory', 'a socket', 'a pipe', 'a character device'];
    expect(outcomes).toMatchObject(kinds.map((kind) => ({ message: expect.stringContaining(kind) })));
  });

  it('names the directory that is missing', async () => {
    expect(
      await settled(() => open({ path: dir.file('gone/disk.img'), createSizeBytes: 512 })),
    ).toMatchObject({
      message: expect.stringContaining('no such directory'),
      hint: expect.stringContaining('mkdir -p'),
    });
  });

  it('says that there is no permission, and how one could go on', async () => {
    make(1024);
    fs.chmodSync(image, 0o444);
    fs.chmodSync(dir.path, 0o755);
    const outcomes = await asNobody(async () => [
      await settled(() => open()),
      await settled(() => open({ readOnly: true })),
    ]);
    expect(outcomes[0]).toMatchObject({
      message: expect.stringContaining('no permission to open'),
      hint: expect.stringContaining('--read-only'),
    });
    expect(outcomes[1]).toBe('ok');
  });

  describe.runIf(loadNativeCalls())('with locks', () => {
    it('refuses a second writer, and a reader beside a writer', async () => {
      make(1024);
      await open();
      for (const readOnly of [false, true]) {
        const error = await settled(() => open({ readOnly }));
        expect(error).toBeInstanceOf(OperationError);
        expect(error).toMatchObject({
          message: expect.stringContaining(image),
          hint: expect.stringContaining('fuser -v'),
        });
      }
    });

    it('lets several read', async () => {
      make(1024);
      await open({ readOnly: true });
      await open({ readOnly: true });
      expect(await settled(() => open())).toBeInstanceOf(OperationError);
    });

    it('waits a moment for one who is about to let go', async () => {
      make(1024);
      const first = await open();
      const second = open();
      setTimeout(() => fs.closeSync(first.fd), 100);
      opened.splice(opened.indexOf(first), 1);
      await second;
    });
  });

  it('goes on where locks do not exist', async () => {
    make(1024);
    const native = { ...loadNativeCalls(), flock: () => 'ENOLCK' } as unknown as NativeCalls;
    await open({ native });
    await open({ native });
  });
});

describe('sizeByReading', () => {
  it('finds any size with few reads', () => {
    for (const size of [0, 1, 511, 512, 513, 64 * MiB, 3 * TiB + 512, 2 ** 53 - 1024]) {
      let reads = 0;
      const found = sizeByReading((at) => {
        reads += 1;
        return at < size;
      });
      expect(found).toBe(size);
      expect(reads).toBeLessThan(120);
    }
  });
});

/** Root may open anything: then the file is tried with another user's rights. */
async function asNobody<T>(run: () => Promise<T>): Promise<T> {
  const NOBODY = 65_534;
  if (process.geteuid?.() !== 0) return run();
  process.seteuid!(NOBODY);
  try {
    return await run();
  } finally {
    process.seteuid!(0);
  }
}
