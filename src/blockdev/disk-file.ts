// Opens, creates, checks and locks the file or block device behind a raw disk. Everything that a user can get wrong
// about it is refused here, with the next step; nothing is ever truncated or overwritten.
import fs from 'node:fs';
import path from 'node:path';
import { errorCode, errorMessage, OperationError, UsageError } from '../base/errors.ts';
import { MAX_DISK_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { NativeCalls } from '../base/native-calls.ts';
import { formatBytes } from '../base/size.ts';
import { diskSize } from './disk-size.ts';

export interface DiskFile {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
}

export interface DiskFileOptions {
  readonly path: string;
  readonly readOnly: boolean;
  /** Create a missing file of this size, bytes, sparse. One that exists must have it. */
  readonly createSizeBytes?: number | undefined;
  readonly native: NativeCalls | undefined;
  readonly logger: Logger;
}

/** How long someone else's lock is waited for, ms: udev looks at block devices, a restarted process overlaps its predecessor. */
const LOCK_PATIENCE_MS = 1000;
const LOCK_RETRY_MS = 50;

/** Opens or creates the file, checks its size, and locks it. @throws OperationError, UsageError */
export async function openDiskFile(options: DiskFileOptions): Promise<DiskFile> {
  checkCreateSize(options);
  const fd = createOrOpen(options);
  try {
    await lock(fd, options);
    const isBlockDevice = fs.fstatSync(fd).isBlockDevice();
    const sizeBytes = diskSize(fd);
    checkSize(sizeBytes, isBlockDevice, options);
    return { fd, sizeBytes, isBlockDevice };
  } catch (error) {
    fs.closeSync(fd);
    throw error instanceof OperationError ? error : openFailed(options, error);
  }
}

function checkCreateSize({ createSizeBytes, readOnly }: DiskFileOptions): void {
  if (createSizeBytes === undefined) return;
  if (readOnly) throw new UsageError('a read-only disk cannot be created; leave out --create or --read-only');
  if (
    !Number.isSafeInteger(createSizeBytes) ||
    createSizeBytes <= 0 ||
    createSizeBytes > MAX_DISK_BYTES ||
    createSizeBytes % SECTOR_BYTES !== 0
  ) {
    throw new UsageError(
      `--create ${createSizeBytes}: a disk is a positive multiple of ${SECTOR_BYTES} bytes, at most ${MAX_DISK_BYTES}`,
    );
  }
}

function createOrOpen(options: DiskFileOptions): number {
  const stat = statOf(options);
  if (stat === undefined) {
    if (options.createSizeBytes !== undefined) return create(options, options.createSizeBytes);
    throw new OperationError(`${options.path}: there is no such image`, {
      hint: options.readOnly
        ? 'check the path'
        : 'check the path, or add --create SIZE (for example --create 20G) to make a sparse image',
    });
  }
  if (!stat.isFile() && !stat.isBlockDevice()) {
    throw new OperationError(`${options.path} is ${kindOf(stat)}, not a disk image`, {
      hint: 'name a regular file or a block device',
    });
  }
  // On a block device, O_EXCL is Linux's way to refuse one that is mounted or otherwise in use.
  const exclusive = stat.isBlockDevice() ? fs.constants.O_EXCL : 0;
  try {
    return fs.openSync(
      options.path,
      options.readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR + exclusive,
    );
  } catch (error) {
    throw openFailed(options, error);
  }
}

function statOf(options: DiskFileOptions): fs.Stats | undefined {
  try {
    return fs.statSync(options.path);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw openFailed(options, error);
  }
}

/** Creates a sparse file, exclusively, and makes its name durable. Nothing is left behind when that fails. */
function create(options: DiskFileOptions, sizeBytes: number): number {
  let fd: number;
  try {
    fd = fs.openSync(options.path, 'wx+', 0o600);
  } catch (error) {
    throw openFailed(options, error);
  }
  try {
    fs.ftruncateSync(fd, sizeBytes);
    fs.fsyncSync(fd);
    syncDirectory(path.dirname(options.path));
    options.logger.info(
      { path: options.path, sizeBytes },
      `created a sparse image of ${formatBytes(sizeBytes)}`,
    );
    return fd;
  } catch (error) {
    fs.closeSync(fd);
    fs.rmSync(options.path, { force: true });
    throw new OperationError(
      `cannot create ${options.path} with ${sizeBytes} bytes: ${errorMessage(error)}`,
      { hint: 'the file system may not hold files that large; choose another place or size', cause: error },
    );
  }
}

function syncDirectory(directory: string): void {
  let fd: number;
  try {
    fd = fs.openSync(directory, 'r');
  } catch {
    return; // Not readable: nothing to be done about it, and no reason to refuse.
  }
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function checkSize(sizeBytes: number, isBlockDevice: boolean, options: DiskFileOptions): void {
  const { path: name, createSizeBytes } = options;
  if (createSizeBytes !== undefined && sizeBytes !== createSizeBytes) {
    throw new OperationError(
      `${name} exists with ${sizeBytes} bytes, --create asks for ${createSizeBytes} bytes`,
      { hint: 'leave out --create to use the image as it is, or name another file' },
    );
  }
  if (sizeBytes === 0) {
    throw new OperationError(`${name} is empty`, {
      hint: isBlockDevice
        ? 'attach a medium to the device first'
        : `give it a size (truncate -s 20G ${quote(name)}), or remove it and use --create SIZE`,
    });
  }
  if (sizeBytes > MAX_DISK_BYTES) {
    throw new OperationError(`${name} has ${sizeBytes} bytes; at most ${MAX_DISK_BYTES} are supported`);
  }
  if (sizeBytes % SECTOR_BYTES !== 0) {
    const whole = (Math.floor(sizeBytes / SECTOR_BYTES) + 1) * SECTOR_BYTES;
    throw new OperationError(`${name} has ${sizeBytes} bytes, which is not a multiple of ${SECTOR_BYTES}`, {
      hint: `truncate -s ${whole} ${quote(name)}`,
    });
  }
}

/** Takes the advisory lock: two processes that write to one image corrupt it without any error. */
async function lock(fd: number, options: DiskFileOptions): Promise<void> {
  if (!options.native) return;
  const mode = options.readOnly ? 'shared' : 'exclusive';
  const endsAt = performance.now() + LOCK_PATIENCE_MS;
  for (;;) {
    const code = options.native.flock(fd, mode);
    if (code === undefined) return;
    if (code !== 'EAGAIN' && code !== 'EWOULDBLOCK') {
      options.logger.warn(
        { path: options.path, code },
        'the image cannot be locked; keep others from opening it',
      );
      return;
    }
    if (performance.now() >= endsAt) throw inUse(options);
    await new Promise((resolve) => setTimeout(resolve, LOCK_RETRY_MS));
  }
}

function inUse({ path: name, readOnly }: DiskFileOptions): OperationError {
  return new OperationError(
    readOnly ? `${name} is open for writing elsewhere` : `${name} is in use by another process`,
    { hint: `find it with: fuser -v ${quote(name)}; stop it, or use another image` },
  );
}

function openFailed(options: DiskFileOptions, error: unknown): OperationError {
  const { path: name, readOnly } = options;
  switch (errorCode(error)) {
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new OperationError(`no permission to open ${name} for ${readOnly ? 'reading' : 'writing'}`, {
        hint: readOnly ? `check ls -l ${quote(name)}` : `check ls -l ${quote(name)}, or add --read-only`,
        cause: error,
      });
    case 'EBUSY':
      return new OperationError(`${name} is in use by the system`, {
        hint: `it may be mounted: see lsblk ${quote(name)}, unmount it, or add --read-only`,
        cause: error,
      });
    case 'ENOENT':
      return new OperationError(`${path.dirname(name)}: there is no such directory`, {
        hint: `mkdir -p ${quote(path.dirname(name))}`,
        cause: error,
      });
    default:
      return new OperationError(`cannot open ${name}: ${errorMessage(error)}`, { cause: error });
  }
}

function kindOf(stat: fs.Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isSocket()) return 'a socket';
  if (stat.isFIFO()) return 'a pipe';
  if (stat.isCharacterDevice()) return 'a character device';
  return 'a special file';
}

/** A path as a shell takes it. */
function quote(name: string): string {
  return /^[\w@%+=:,./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
}
