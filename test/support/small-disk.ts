// A disk that is small enough to be filled: a tmpfs of its own. Needs root, as every mount does.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';

/** Whether this process may make one. */
export const canMount: boolean = process.getuid?.() === 0;

const PAGE = Buffer.alloc(4096, 1);
const BLOCK = Buffer.alloc(256 * 1024, 1);

export class SmallDisk implements Disposable {
  readonly path: string;

  /** @param path an empty folder @throws Error when it can't be mounted */
  constructor(path: string, sizeBytes: number) {
    this.path = path;
    const size = `size=${sizeBytes},huge=never`;
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', size, 'repagent-test', path]);
    if (mounted.status !== 0) throw new Error(mounted.stderr.toString());
  }

  /** Takes all the space that is left, but for so many pages. */
  fill(freePages = 0): void {
    const fd = fs.openSync(this.#filler, 'a');
    try {
      for (const piece of [BLOCK, PAGE]) while (append(fd, piece));
      const size = fs.fstatSync(fd).size;
      fs.ftruncateSync(fd, Math.floor(size / PAGE.length - freePages) * PAGE.length);
    } finally {
      fs.closeSync(fd);
    }
  }

  /** Gives the space back. */
  makeRoom(): void {
    fs.rmSync(this.#filler);
  }

  /** Whatever still lives in it keeps what it has open. */
  [Symbol.dispose](): void {
    spawnSync('umount', ['-l', this.path]);
  }

  get #filler(): string {
    return join(this.path, 'filler');
  }
}

/** @returns false when the disk is full */
function append(fd: number, piece: Buffer): boolean {
  try {
    return fs.writeSync(fd, piece) === piece.length;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return false;
    throw error;
  }
}
