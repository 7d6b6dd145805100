import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import type { ZeroMode } from '../../../src/base/native-calls.ts';
import { probeFastZero } from '../../../src/blockdev/fast-zero-probe.ts';
import { openFileDevice } from '../../../src/blockdev/file-device.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

let dir: TempDir;
let path: string;
let fd: number;

beforeEach(() => {
  dir = tempDir();
  path = dir.file('disk.img');
  fs.writeFileSync(path, Buffer.alloc(8192, 7));
  fd = fs.openSync(path, 'r+');
});

afterEach(() => {
  fs.closeSync(fd);
  dir.remove();
});

/** A file system that knows these modes, and says `refusal` to the others. */
function knows(modes: readonly ZeroMode[], refusal = 'EOPNOTSUPP') {
  const asked: number[] = [];
  return {
    asked,
    fallocateSync: (on: number, mode: ZeroMode) => {
      asked.push(on);
      return modes.includes(mode) ? undefined : refusal;
    },
  };
}

describe('probeFastZero', () => {
  it('tells what the file system can do', () => {
    const probe = (native: ReturnType<typeof knows>) =>
      probeFastZero(native, { path, fd, isBlockDevice: false });
    expect(probe(knows(['punch', 'zero']))).toBe('always');
    expect(probe(knows(['punch']))).toBe('holes');
    expect(probe(knows(['zero']))).toBe('never');
    expect(probe(knows([]))).toBe('never');
    // A full disk is no reason to think that it can't.
    expect(probe(knows(['punch'], 'ENOSPC'))).toBe('always');
  });

  it('never touches the image nor leaves anything beside it', () => {
    const native = knows(['punch', 'zero']);
    probeFastZero(native, { path, fd, isBlockDevice: false });
    expect(native.asked.length).toBeGreaterThan(0);
    expect(native.asked).not.toContain(fd);
    expect(fs.readdirSync(dir.path)).toEqual(['disk.img']);
    expect(fs.readFileSync(path).equals(Buffer.alloc(8192, 7))).toBe(true);
  });

  it('says never when it cannot look', () => {
    expect(probeFastZero(undefined, { path, fd, isBlockDevice: false })).toBe('never');
    const gone = { path: dir.file('nowhere/disk.img'), fd, isBlockDevice: false };
    expect(probeFastZero(knows(['punch', 'zero']), gone)).toBe('never');
    expect(probeFastZero(knows(['punch']), { path, fd, isBlockDevice: true, sysDir: dir.path })).toBe(
      'never',
    );
  });

  it('asks the kernel about block devices, and a partition means its disk', () => {
    // A regular file has device number 0:0.
    const sysDir = dir.file('sys');
    const queue = (at: string, bytes: string): void => {
      fs.mkdirSync(`${at}/queue`, { recursive: true });
      fs.writeFileSync(`${at}/queue/write_zeroes_max_bytes`, bytes);
    };
    const probe = () => probeFastZero(knows([]), { path, fd, isBlockDevice: true, sysDir });
    queue(`${sysDir}/0:0`, '33553920\n');
    expect(probe()).toBe('always');
    queue(`${sysDir}/0:0`, '0\n');
    expect(probe()).toBe('never');
    fs.writeFileSync(`${sysDir}/0:0/partition`, '1\n');
    queue(sysDir, '4096\n');
    expect(probe()).toBe('always');
  });

  it('is what a disk file says of itself', async () => {
    const device = await openFileDevice({
      path: dir.file('own.img'),
      createSizeBytes: 8192,
      logger: silentLogger,
    });
    // Every file system that tests run on can punch holes; which of them it is decides the rest.
    expect(['holes', 'always']).toContain(device.limits.fastZero);
    await device.close();
    const plain = await openFileDevice({ path: dir.file('own.img'), native: null, logger: silentLogger });
    expect(plain.limits).toMatchObject({ fastZero: 'never', cheapExtents: false });
    await plain.close();
    const options = { path: dir.file('own.img'), readOnly: true, logger: silentLogger };
    const readOnly = await openFileDevice(options);
    expect(readOnly.limits.fastZero).toBe('never');
    await readOnly.close();
  });
});
