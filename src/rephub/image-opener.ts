// Where images come from: files and block devices. The catalog knows images only by this interface.
import fs from 'node:fs/promises';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { systemFiles } from '../base/small-files.ts';
import { openFileDevice } from '../blockdev/file-device.ts';
import { ImageStore } from './image-store.ts';
import type { ImageLook } from './replica-record.ts';
import type { ReplicaStore } from './replica-store.ts';
import { type UndoPlace, undoPlace } from './undo-file.ts';

export interface ImageOpener {
  /** The same for any two paths that lead to one image, by whatever links; undefined when there is none. */
  identify(path: string): Promise<string | undefined>;
  /**
   * How an image looks; undefined when there is none, or that says nothing of its content.
   * @param durably it must not look older than that after a power failure
   */
  look?(path: string, durably: boolean): Promise<ImageLook | undefined>;
  /**
   * Opens an image, or creates it sparse when `createSizeBytes` is given.
   * @throws OperationError
   */
  open(path: string, createSizeBytes: number | undefined): Promise<ReplicaStore>;
  /** Where an undo log is kept; without it none is. @param file its path */
  undoPlace?(file: string): UndoPlace;
}

export function fileImages(logger: Logger): ImageOpener {
  return {
    identify,
    look,
    open: async (path, size) => new ImageStore(await openImage(path, size, logger)),
    undoPlace: (file) => undoPlace(file),
  };
}

/** How identities of block devices begin: they can't be given another size. */
export const BLOCK_IDENTITY = 'block:';

async function look(path: string, durably: boolean): Promise<ImageLook | undefined> {
  try {
    const stat = await fs.stat(path, { bigint: true });
    if (!stat.isFile()) return undefined;
    // Commits make the data durable, and not when it was written.
    if (durably) await systemFiles.sync(path);
    return {
      identity: `${stat.ino}:${stat.birthtimeNs}`,
      changedAtNs: String(stat.mtimeNs),
      isEmpty: stat.blocks === 0n,
    };
  } catch {
    // Whoever opens it says what is wrong.
    return undefined;
  }
}

async function identify(path: string): Promise<string | undefined> {
  try {
    const stat = await fs.stat(path, { bigint: true });
    return stat.isBlockDevice() ? `${BLOCK_IDENTITY}${stat.rdev}` : `file:${stat.dev}:${stat.ino}`;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw new OperationError(`cannot look at ${path}: ${errorMessage(error)}`, {
      hint: 'check the path and who may read it',
      cause: error,
    });
  }
}

function openImage(path: string, createSizeBytes: number | undefined, logger: Logger) {
  return openFileDevice({ path, createSizeBytes, logger });
}
