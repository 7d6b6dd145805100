// The file of a dirty map, as bytes. A write has reached the kernel when the call returns: it survives the end of the
// process at any moment after that. Nothing here knows what the bytes mean.
import fs from 'node:fs';
import { MiB } from '../base/limits.ts';
import { loadNativeCalls } from '../base/native-calls.ts';

/** So much of it is read or written at once. */
export const LOAD_BYTES = MiB;

export interface SidecarFile {
  /** Whether the file was there before. */
  readonly existed: boolean;
  readonly sizeBytes: number;
  /** @returns the bytes that are there, maybe fewer @throws Error with `code` */
  read(position: number, length: number): Buffer;
  /** In place, without a promise: it is called before a guest's write. @throws Error with `code` */
  write(data: Buffer, position: number): void;
  /** Makes the file larger, and takes the space for it where the file system can. What is there stays. */
  extend(sizeBytes: number): void;
  /** Empties the file: whatever it said is void. */
  empty(): void;
  /** The file shows that its owner lives. @param atMs or lived then, Unix milliseconds */
  touch(atMs?: number): void;
  /** When it was last written or touched, Unix milliseconds. */
  readonly touchedAtMs: number;
  /** Makes all that was written durable. */
  sync(): Promise<void>;
  /** The same while everything waits: at the start only. @throws Error with `code` */
  syncNow(): void;
  close(): void;
}

/** Opens or creates the file. @throws Error with `code` */
export function openSidecarFile(path: string): SidecarFile {
  const existed = fs.existsSync(path);
  const fd = fs.openSync(path, fs.constants.O_RDWR + fs.constants.O_CREAT, 0o600);
  const native = loadNativeCalls();
  const writeOnce = native
    ? (data: Buffer, position: number) => native.writeSync(fd, data, position)
    : (data: Buffer, position: number) => fs.writeSync(fd, data, 0, data.length, position);
  return {
    existed,
    get sizeBytes() {
      return fs.fstatSync(fd).size;
    },
    read: (position, length) => {
      const target = Buffer.alloc(length);
      let read = 0;
      while (read < length) {
        const more = fs.readSync(fd, target, read, length - read, position + read);
        if (more === 0) break;
        read += more;
      }
      return target.subarray(0, read);
    },
    write: (data, position) => {
      let written = writeOnce(data, position);
      while (written < data.length) {
        const more = writeOnce(data.subarray(written), position + written);
        if (more === 0) throw Object.assign(new Error('pwrite wrote nothing'), { code: 'EIO' });
        written += more;
      }
    },
    extend: (sizeBytes) => {
      const before = fs.fstatSync(fd).size;
      if (sizeBytes <= before) return;
      fs.ftruncateSync(fd, sizeBytes);
      // Later writes then can't fail for lack of space, where the file system overwrites in place.
      native?.fallocateSync(fd, 'zero', before, sizeBytes - before);
    },
    empty: () => fs.ftruncateSync(fd, 0),
    touch: (atMs = Date.now()) => fs.futimesSync(fd, atMs / 1000, atMs / 1000),
    get touchedAtMs() {
      return fs.fstatSync(fd).mtimeMs;
    },
    sync: () =>
      new Promise((resolve, reject) => {
        fs.fdatasync(fd, (error) => (error ? reject(error) : resolve()));
      }),
    syncNow: () => fs.fdatasyncSync(fd),
    close: () => fs.closeSync(fd),
  };
}
