// Finds out when a disk file is opened how zeroing it compares with writing zeroes. It must not change the disk: a file
// system is asked by a nameless file beside the image, a block device by what the kernel says of it.
import fs from 'node:fs';
import path from 'node:path';
import type { NativeCalls } from '../base/native-calls.ts';
import type { FastZero } from './block-device.ts';

/** Linux' O_TMPFILE without its O_DIRECTORY: a file that never has a name. */
const O_TMPFILE = 0o20000000 + fs.constants.O_DIRECTORY;

/** What is tried on the nameless file, bytes. */
const PROBE_BYTES = 4096;

export interface ProbedFile {
  readonly path: string;
  readonly fd: number;
  readonly isBlockDevice: boolean;
  /** Where the kernel describes block devices. */
  readonly sysDir?: string;
}

/** Never throws: what can't be found out is `never`. */
export function probeFastZero(
  native: Pick<NativeCalls, 'fallocateSync'> | undefined,
  file: ProbedFile,
): FastZero {
  if (!native) return 'never';
  try {
    return file.isBlockDevice ? probeBlockDevice(file) : probeFileSystem(native, file);
  } catch {
    return 'never';
  }
}

/** Without an offload of its own, a block device is given zeroes to write. */
function probeBlockDevice({ fd, sysDir = '/sys/dev/block' }: ProbedFile): FastZero {
  const { rdev } = fs.fstatSync(fd, { bigint: true });
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  const device = `${sysDir}/${major}:${minor}`;
  // A partition is treated as its disk is. Not path.join: `..` is meant as the kernel sees it, behind the symlink.
  const queue = fs.existsSync(`${device}/partition`) ? `${device}/../queue` : `${device}/queue`;
  const maxBytes = Number(fs.readFileSync(`${queue}/write_zeroes_max_bytes`, 'utf8'));
  return maxBytes > 0 ? 'always' : 'never';
}

function probeFileSystem(native: Pick<NativeCalls, 'fallocateSync'>, file: ProbedFile): FastZero {
  const directory = path.dirname(fs.realpathSync(file.path));
  const probe = fs.openSync(directory, O_TMPFILE + fs.constants.O_RDWR, 0o600);
  try {
    // A file may be mounted over a name in a directory of another file system.
    if (fs.fstatSync(probe).dev !== fs.fstatSync(file.fd).dev) return 'never';
    const can = (mode: 'punch' | 'zero'): boolean => {
      const code = native.fallocateSync(probe, mode, 0, PROBE_BYTES);
      return code === undefined || code === 'ENOSPC' || code === 'EDQUOT';
    };
    if (!can('punch')) return 'never';
    return can('zero') ? 'always' : 'holes';
  } finally {
    fs.closeSync(probe);
  }
}
