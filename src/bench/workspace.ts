// The bench's files: a folder on tmpfs and one on disk, images full of noise, gone when the run ends. Folders that a
// killed run left are removed by the next.
import { randomFillSync } from 'node:crypto';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OperationError } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';
import type { Storage } from './matrix.ts';

const PREFIX = 'repagent-bench-';
const TMPFS = '/dev/shm';

export class Workspace {
  readonly #roots: Readonly<Record<Storage, string>>;
  readonly #folders = new Map<Storage, string>();
  readonly #onExit = (): void => this.remove();

  /** @param diskRoot a folder on a disk, for the cells that want one */
  constructor(diskRoot: string = existsSync('/var/tmp') ? '/var/tmp' : tmpdir()) {
    this.#roots = { tmpfs: existsSync(TMPFS) ? TMPFS : tmpdir(), disk: diskRoot };
    for (const root of new Set(Object.values(this.#roots))) removeLeftovers(root);
    process.on('exit', this.#onExit);
  }

  /** A path in the folder on that storage. */
  path(storage: Storage, name: string): string {
    let folder = this.#folders.get(storage);
    if (folder === undefined) {
      folder = mkdtempSync(join(this.#roots[storage], `${PREFIX}${process.pid}-`));
      this.#folders.set(storage, folder);
    }
    return join(folder, name);
  }

  /** Removes everything. Synchronous, for the moment of exiting. */
  remove(): void {
    for (const folder of this.#folders.values())
      rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
    this.#folders.clear();
  }

  close(): void {
    this.remove();
    process.off('exit', this.#onExit);
  }
}

/** An image in which every block is allocated and holds data, so that reads copy and writes allocate nothing. */
export function createImage(path: string, sizeBytes: number): void {
  const noise = randomFillSync(Buffer.allocUnsafe(MiB));
  const fd = openSync(path, 'w');
  try {
    for (let at = 0; at < sizeBytes; at += noise.length) {
      noise.writeUInt32LE(at / MiB, 0);
      writeSync(fd, noise, 0, Math.min(noise.length, sizeBytes - at), at);
    }
  } catch (cause) {
    throw new OperationError(`there is no room for an image of ${sizeBytes} bytes at ${path}`, {
      cause,
      hint: 'choose a smaller --size',
    });
  } finally {
    closeSync(fd);
  }
}

export function createEmptyImage(path: string, sizeBytes: number): void {
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, sizeBytes);
  } finally {
    closeSync(fd);
  }
}

/** What was left behind by runs whose process is gone; also the daemons that they had started. */
function removeLeftovers(root: string): void {
  for (const name of readdirSync(root)) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1]);
    if (!Number.isInteger(pid) || existsSync(`/proc/${pid}`)) continue;
    const folder = join(root, name);
    for (const file of readdirSync(folder).filter((one) => one.endsWith('.pid')))
      endDaemon(join(folder, file), folder);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Only a process whose command line names our folder is ours. */
function endDaemon(pidFile: string, folder: string): void {
  try {
    const pid = Number(readFileSync(pidFile, 'utf8'));
    if (pid > 1 && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder))
      process.kill(pid, 'SIGKILL');
  } catch {
    // It has gone.
  }
}
