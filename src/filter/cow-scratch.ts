// Where an overlay keeps what was changed: a sparse file that nobody else sees, or memory. Gone when it is closed.
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { openFileDevice } from '../blockdev/file-device.ts';
import { MemoryDevice } from '../blockdev/memory-device.ts';

export interface ScratchOptions {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly inMemory: boolean;
  /** The path of a file that doesn't exist yet; a temporary one unless given. */
  readonly file: string | undefined;
  readonly logger: Logger;
}

export interface Scratch {
  readonly device: BlockDevice;
  /** Lets go of everything, and writes none of it to a disk first. */
  discard(): Promise<void>;
}

/** @throws OperationError when the file exists or can't be made */
export async function openScratch(options: ScratchOptions): Promise<Scratch> {
  const { blockBytes, inMemory, file, logger } = options;
  const sizeBytes = Math.ceil(options.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  if (inMemory) {
    const device = new MemoryDevice({ sizeBytes, pageBytes: blockBytes });
    return { device, discard: () => device.close() };
  }
  const folder = file === undefined ? fs.mkdtempSync(join(tmpdir(), 'repagent-cow-')) : undefined;
  const path = file ?? join(folder!, 'scratch');
  const remove = (): void => {
    fs.rmSync(path, { force: true });
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  };
  makeEmpty(path);
  let device: BlockDevice;
  try {
    fs.truncateSync(path, sizeBytes);
    device = await openFileDevice({ path, logger });
  } catch (error) {
    remove();
    throw error;
  }
  // A temporary file has no name from here on, so that nothing is left of a process that is killed.
  if (folder !== undefined) remove();
  const discard = async (): Promise<void> => {
    try {
      // What is dropped here need not be written when the file is closed.
      await device.trim(0, device.sizeBytes, false);
      await device.close();
    } finally {
      remove();
    }
  };
  return { device, discard };
}

function makeEmpty(path: string): void {
  try {
    fs.closeSync(fs.openSync(path, 'wx', 0o600));
  } catch (error) {
    const isThere = errorCode(error) === 'EEXIST';
    throw new OperationError(
      isThere ? `the scratch file ${path} exists already` : `can't make ${path}: ${errorMessage(error)}`,
      {
        cause: error,
        hint: isThere
          ? 'remove it if it is left from a process that was killed, or name another'
          : 'give file= a path in a directory that exists and may be written to',
      },
    );
  }
}
