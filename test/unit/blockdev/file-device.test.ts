import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { loadNativeCalls, type NativeCalls } from '../../../src/base/native-calls.ts';
import { type FileDeviceOptions, openFileDevice } from '../../../src/blockdev/file-device.ts';
import { type FileIo, systemIo } from '../../../src/blockdev/file-io.ts';
import type { OrderedDevice } from '../../../src/blockdev/ordered-device.ts';
import { readBack, settled } from '../../support/block-device-suite.ts';
import { pattern } from '../../support/disk-model.ts';
import { isPending } from '../../support/held-device.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const SIZE_BYTES = 8 * MiB;

/** Notes each call; those on the thread pool, and syncs, wait while `held`. */
class SpyIo implements FileIo {
  readonly calls: string[] = [];
  held = false;
  readonly waiting: Array<() => void> = [];
  fail: Record<string, string> = {};
  readonly #inner = systemIo(loadNativeCalls());

  readSync(fd: number, target: Buffer, at: number): number {
    this.#note('readSync');
    return this.#inner.readSync(fd, target, at);
  }

  writeSync(fd: number, data: Buffer, at: number): number {
    this.#note('writeSync');
    return this.#inner.writeSync(fd, data, at);
  }

  read: FileIo['read'] = (fd, target, at, done) => {
    this.#later('read', done, () => this.#inner.read(fd, target, at, done));
  };

  write: FileIo['write'] = (fd, data, at, done) => {
    this.#later('write', done, () => this.#inner.write(fd, data, at, done));
  };

  datasync: FileIo['datasync'] = (fd, done) => {
    this.#later('datasync', done, () => this.#inner.datasync(fd, done));
  };

  releaseAll(): void {
    this.held = false;
    for (const call of this.waiting.splice(0)) call();
  }

  #note(name: string): void {
    this.calls.push(name);
    const code = this.fail[name];
    if (code) throw Object.assign(new Error(`injected ${code}`), { code });
  }

  #later(name: string, done: (error: Error | null, bytes: number) => void, call: () => void): void {
    const run = (): void => {
      try {
        this.#note(name);
      } catch (error) {
        done(error as Error, 0);
        return;
      }
      call();
    };
    if (this.held) this.waiting.push(run);
    else run();
  }
}

describe('a raw image', () => {
  let dir: TempDir;
  let io: SpyIo;
  const devices: OrderedDevice[] = [];

  beforeEach(() => {
    dir = tempDir();
    io = new SpyIo();
  });

  afterEach(async () => {
    io.fail = {};
    io.releaseAll();
    for (const device of devices.splice(0)) await settled(() => device.close());
    dir.remove();
  });

  async function open(options: Partial<FileDeviceOptions> = {}): Promise<OrderedDevice> {
    const device = await openFileDevice({
      path: dir.file('disk.img'),
      createSizeBytes: SIZE_BYTES,
      logger: silentLogger,
      io,
      ...options,
    });
    devices.push(device);
    return device;
  }

  const block = pattern(4 * KiB, 1);

  it('reads and writes in place what the page cache takes, and syncs on the thread pool', async () => {
    const device = await open();
    expect(device.write(0, block, false)).toBeUndefined();
    expect(device.read(0, Buffer.alloc(4 * KiB))).toBeUndefined();
    const flushed = device.flush();
    expect(flushed).toBeInstanceOf(Promise);
    await flushed;
    expect(io.calls).toEqual(['writeSync', 'readSync', 'datasync']);
  });

  it('moves more than a MiB on the thread pool only', async () => {
    const device = await open();
    const data = pattern(1 * MiB + 512, 2);
    await device.write(512, data, false);
    expect((await readBack(device, 512, data.length)).equals(data)).toBe(true);
    expect(io.calls).toEqual(['write', 'read']);
  });

  it('answers a write with fua only after a sync that began after it', async () => {
    const device = await open();
    io.held = true;
    const first = device.write(0, block, true);
    const second = device.write(8 * KiB, block, true);
    expect(await isPending(first)).toBe(true);
    expect(io.waiting).toHaveLength(1);
    io.waiting.shift()!();
    await first;
    expect(await isPending(second)).toBe(true);
    io.releaseAll();
    await second;
    expect(io.calls).toEqual(['writeSync', 'writeSync', 'datasync', 'datasync']);
    expect(device.trim(0, 4 * KiB, true)).toBeInstanceOf(Promise);
    expect(device.writeZeroes(8 * KiB, 4 * KiB, true, false)).toBeInstanceOf(Promise);
  });

  it('covers a change on the thread pool from when it ended, not from when it began', async () => {
    const device = await open();
    await device.flush();
    io.held = true;
    const write = device.write(0, pattern(2 * MiB, 3), false);
    expect(device.flush()).toBeUndefined();
    io.releaseAll();
    await write;
    await device.flush();
    expect(io.calls).toEqual(['datasync', 'write', 'datasync']);
  });

  it('does not sync for a flush when nothing changed', async () => {
    const device = await open();
    await device.flush();
    expect(device.flush()).toBeUndefined();
    await device.close();
    expect(io.calls).toEqual(['datasync']);
  });

  it('fails every flush after one that failed, and closes nevertheless', async () => {
    const device = await open();
    await device.write(0, block, false);
    io.fail = { datasync: 'EIO' };
    expect(await settled(() => device.flush())).toMatchObject({ code: 'EIO' });
    io.fail = {};
    await device.write(0, block, false);
    expect(await settled(() => device.flush())).toMatchObject({ code: 'EIO' });
    expect(await settled(() => device.write(0, block, true))).toMatchObject({ code: 'EIO' });
    expect(await settled(() => device.close())).toBeInstanceOf(BlockError);
    // The lock is gone with the descriptor.
    await (await open()).close();
  });

  it('answers system errors as block errors that name the place', async () => {
    const device = await open();
    const slow = 2 * MiB;
    io.fail = { writeSync: 'ENOSPC', readSync: 'EIO', write: 'EDQUOT', read: 'EBADF' };
    expect(await settled(() => device.write(512, block, false))).toMatchObject({
      name: 'BlockError',
      code: 'ENOSPC',
      message: expect.stringMatching(/write at 512 of .*disk\.img/),
    });
    expect(await settled(() => device.read(0, Buffer.alloc(512)))).toMatchObject({ code: 'EIO' });
    expect(await settled(() => device.write(0, Buffer.alloc(slow), false))).toMatchObject({ code: 'ENOSPC' });
    expect(await settled(() => device.read(0, Buffer.alloc(slow)))).toMatchObject({ code: 'EIO' });
    io.fail = {};
    await device.write(0, block, true);
  });

  it('answers EIO for what was cut off its file meanwhile, in place and on the thread pool', async () => {
    const device = await open();
    await device.write(0, block, false);
    fs.truncateSync(dir.file('disk.img'), 6 * KiB);
    expect((await readBack(device, 0, 4 * KiB)).equals(block)).toBe(true);
    for (const length of [4 * KiB, 2 * MiB]) {
      const outcome = await settled(() => device.read(4 * KiB, Buffer.alloc(length)));
      expect(outcome).toMatchObject({ code: 'EIO', message: expect.stringContaining('cut short') });
    }
  });

  it('moves to the thread pool while the disk is slow, and back', async () => {
    let now = 0;
    let stepMs = 0;
    const clock = (): number => {
      now += stepMs;
      return now;
    };
    const device = await open({ now: clock });
    stepMs = 20;
    await device.read(0, Buffer.alloc(512));
    expect(device.read(0, Buffer.alloc(512))).toBeInstanceOf(Promise);
    // Writes have a measure of their own: a cold disk is slow to read, the cache still takes writes.
    expect(device.write(0, block, false)).toBeUndefined();
    expect(device.write(0, block, false)).toBeInstanceOf(Promise);
    await device.drain();
    stepMs = 0;
    await device.read(0, Buffer.alloc(512));
    await device.write(0, block, false);
    now += 1000;
    expect(device.read(0, Buffer.alloc(512))).toBeUndefined();
    expect(device.write(0, block, false)).toBeUndefined();
    expect(io.calls).toEqual([
      'readSync',
      'read',
      'writeSync',
      'write',
      'read',
      'write',
      'readSync',
      'writeSync',
    ]);
  });

  it('keeps a later write after an earlier one that is still on the thread pool', async () => {
    const device = await open();
    io.held = true;
    const large = device.write(0, pattern(2 * MiB, 4), false);
    const small = device.write(1 * MiB, block, false);
    const apart = device.write(4 * MiB, block, false);
    expect(apart).toBeUndefined();
    expect(await isPending(small)).toBe(true);
    io.releaseAll();
    await Promise.all([large, small]);
    expect((await readBack(device, 1 * MiB, 4 * KiB)).equals(block)).toBe(true);
  });

  it('waits on close for what is on the thread pool, then syncs', async () => {
    const device = await open();
    io.held = true;
    const write = device.write(0, pattern(2 * MiB, 5), false);
    const read = device.read(4 * MiB, Buffer.alloc(2 * MiB));
    const closed = device.close();
    expect(await isPending(closed)).toBe(true);
    io.releaseAll();
    await Promise.all([write, read, closed]);
    expect(io.calls).toEqual(['write', 'read', 'datasync']);
  });

  it('keeps the descriptor while a read still uses it', async () => {
    const device = await open();
    // Nothing is left to sync, so that close has nothing else to wait for.
    await device.flush();
    io.held = true;
    const reading = settled(() => device.read(0, Buffer.alloc(2 * MiB)));
    const closed = device.close();
    expect(await isPending(closed)).toBe(true);
    io.releaseAll();
    expect(await reading).toBe('ok');
    await closed;
  });

  it('opens read-only what is not writable, and never syncs it', async () => {
    await (await open()).close();
    fs.chmodSync(dir.file('disk.img'), 0o444);
    io.calls.length = 0;
    const device = await openFileDevice({
      path: dir.file('disk.img'),
      readOnly: true,
      logger: silentLogger,
      io,
    });
    devices.push(device);
    expect(device.limits.readOnly).toBe(true);
    await device.read(0, Buffer.alloc(512));
    await device.close();
    expect(io.calls).toEqual(['readSync']);
  });

  it('gives space back, and takes it, where native calls are there', async () => {
    if (!loadNativeCalls()) return;
    const device = await open();
    const used = (): number => fs.statSync(dir.file('disk.img')).blocks * 512;
    await device.write(0, pattern(4 * MiB, 6), true);
    expect(used()).toBeGreaterThanOrEqual(4 * MiB);
    await device.trim(0, 2 * MiB, true);
    expect(used()).toBeLessThan(3 * MiB);
    await device.writeZeroes(2 * MiB, 2 * MiB, true, true);
    expect(used()).toBeLessThan(1 * MiB);
    await device.writeZeroes(0, 4 * MiB, true, false);
    expect(used()).toBeGreaterThanOrEqual(4 * MiB);
    expect((await readBack(device, 0, 4 * MiB)).equals(Buffer.alloc(4 * MiB))).toBe(true);
  });

  it('passes the failure of a native call on, and still counts the change', async () => {
    const native = { ...loadNativeCalls(), fallocateSync: () => 'ENOSPC' } as unknown as NativeCalls;
    const device = await open({ native });
    await device.flush();
    expect(await settled(() => device.writeZeroes(0, 512, false, false))).toMatchObject({
      code: 'ENOSPC',
      message: expect.stringContaining('write zeroes at 0'),
    });
    expect(device.flush()).toBeInstanceOf(Promise);
  });

  it('tells everything as data without native calls', async () => {
    const device = await open({ native: null });
    expect(await device.extents(512, 1024)).toEqual([
      { offset: 512, length: 1024, hole: false, zero: false },
    ]);
    expect(await device.cache(0, 4096)).toBeUndefined();
  });
});
