// How large an open disk is: a regular file says so itself, a block device has to be asked.
import fs from 'node:fs';
import { MAX_DISK_BYTES, SECTOR_BYTES } from '../base/limits.ts';

/** The size of an open file or block device, bytes. @throws a system error when a block device can't be read */
export function diskSize(fd: number, sysfsRoot = '/sys'): number {
  const stat = fs.fstatSync(fd, { bigint: true });
  if (!stat.isBlockDevice()) return Number(stat.size);
  return sizeFromSysfs(stat.rdev, sysfsRoot) ?? sizeByReading((at) => readsByte(fd, at));
}

/** Linux tells a block device's size in sectors of 512 bytes, whatever its own sector is. */
function sizeFromSysfs(rdev: bigint, sysfsRoot: string): number | undefined {
  // The C library's split of a device number into major and minor.
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  try {
    const text = fs.readFileSync(`${sysfsRoot}/dev/block/${major}:${minor}/size`, 'utf8');
    const bytes = Number(text) * SECTOR_BYTES;
    return Number.isSafeInteger(bytes) ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Finds a size by looking for the last byte that can be read: about a hundred reads at most.
 * @param readable whether the byte at an offset exists
 */
export function sizeByReading(readable: (offset: number) => boolean): number {
  let exists = 0;
  let step = SECTOR_BYTES;
  while (exists + step <= MAX_DISK_BYTES && readable(exists + step - 1)) {
    exists += step;
    step *= 2;
  }
  for (; step >= 1; step = Math.floor(step / 2)) {
    if (exists + step <= MAX_DISK_BYTES && readable(exists + step - 1)) exists += step;
  }
  return exists;
}

function readsByte(fd: number, offset: number): boolean {
  return fs.readSync(fd, Buffer.alloc(1), 0, 1, offset) === 1;
}
