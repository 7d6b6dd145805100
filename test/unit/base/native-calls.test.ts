import fs from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import { loadNativeCalls } from '../../../src/base/native-calls.ts';
import { pattern } from '../../support/disk-model.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const native = loadNativeCalls();

describe.runIf(native)('native calls', () => {
  const calls = native!;
  let dir: TempDir;
  let fd: number;

  beforeAll(() => {
    dir = tempDir();
    fd = fs.openSync(dir.file('disk.img'), 'w+');
    fs.ftruncateSync(fd, 8 * GiB);
  });

  afterAll(() => {
    fs.closeSync(fd);
    dir.remove();
  });

  it('move bytes from and to the middle of larger buffers, beyond 4 GiB', () => {
    const slab = Buffer.alloc(64 * KiB, 0xee);
    const data = slab.subarray(1000, 1000 + 5000);
    pattern(5000, 1).copy(data);
    expect(calls.writeSync(fd, data, 5 * GiB + 7)).toBe(5000);
    const target = Buffer.alloc(9000, 0xee);
    expect(calls.readSync(fd, target.subarray(2000, 7000), 5 * GiB + 7)).toBe(5000);
    expect(target.subarray(2000, 7000).equals(pattern(5000, 1))).toBe(true);
    expect(target.subarray(0, 2000).equals(Buffer.alloc(2000, 0xee))).toBe(true);
    expect(target.subarray(7000).equals(Buffer.alloc(2000, 0xee))).toBe(true);
    expect(fs.readSync(fd, target, 0, 5000, 5 * GiB + 7)).toBe(5000);
    expect(target.subarray(0, 5000).equals(pattern(5000, 1))).toBe(true);
  });

  it('move small buffers out of the shared pool', () => {
    expect(calls.writeSync(fd, Buffer.from('small'), 100)).toBe(5);
    const target = Buffer.from('.....');
    calls.readSync(fd, target, 100);
    expect(target.toString()).toBe('small');
  });

  it('tell the end of the file, and errors by name', () => {
    expect(calls.readSync(fd, Buffer.alloc(10), 8 * GiB)).toBe(0);
    expect(() => calls.readSync(-1, Buffer.alloc(10), 0)).toThrow(expect.objectContaining({ code: 'EBADF' }));
    expect(() => calls.writeSync(fd, Buffer.alloc(10), -1)).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    expect(calls.fallocateSync(-1, 'punch', 0, 10)).toBe('EBADF');
  });

  it('tell each failed call on the thread pool its own error', async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 200 }, (_, i) =>
        calls.fallocate(i % 2 === 0 ? -1 : fd, 'punch', i % 2 === 0 ? 0 : -1, 10),
      ),
    );
    expect(outcomes).toEqual(outcomes.map((_, i) => (i % 2 === 0 ? 'EBADF' : 'EINVAL')));
  });

  it('find data and holes, and the end of the data', async () => {
    calls.writeSync(fd, pattern(64 * KiB, 2), 1 * GiB);
    expect(await calls.seek(fd, 1 * MiB, 'data')).toBe(1 * GiB);
    expect(await calls.seek(fd, 1 * GiB, 'hole')).toBe(1 * GiB + 64 * KiB);
    expect(await calls.seek(fd, 7 * GiB, 'data')).toBe(-1);
    expect(await calls.seek(-1, 0, 'data')).toBeUndefined();
  });

  it('ask for readahead without ever failing', async () => {
    await calls.willNeed(fd, 0, 8 * GiB);
    await calls.willNeed(-1, 0, 10);
  });

  it('give the memory of whole pages back, and no byte of any other', async () => {
    const large = Buffer.allocUnsafeSlow(8 * MiB).fill(7);
    const resident = (): number => process.memoryUsage.rss();
    const before = resident();
    expect(calls.discardPagesSync(large.subarray(1000, large.length - 1000))).toBeUndefined();
    expect(before - resident()).toBeGreaterThan(6 * MiB);
    expect(large.subarray(0, 1000).every((byte) => byte === 7)).toBe(true);
    expect(large.subarray(-1000).every((byte) => byte === 7)).toBe(true);
    expect(large[4 * MiB]).toBe(0);
    // What is in the part of a page at either end stays.
    large.fill(8);
    expect(await calls.discardPages(large.subarray(0, 5 * MiB + 100))).toBeUndefined();
    expect(large.subarray(5 * MiB + 100).every((byte) => byte === 8)).toBe(true);
    expect(large[MiB]).toBe(0);
    const small = Buffer.allocUnsafeSlow(900).fill(9);
    expect(calls.discardPagesSync(small)).toBeUndefined();
    expect(await calls.discardPages(Buffer.alloc(0))).toBeUndefined();
    expect(small.every((byte) => byte === 9)).toBe(true);
  });
});
