// The image of a replica by the name that people give it, for a recovery: where its record and its undo log are.
import path from 'node:path';
import { OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { openFileDevice } from '../blockdev/file-device.ts';
import { Catalog, type ReplicaPlace } from './catalog.ts';
import { fileImages } from './image-opener.ts';
import { type Recovery, recoverImage, recoveryFailed } from './recover.ts';

export interface RecoverTarget {
  /** The volume, of an image that the hub was given as NAME=PATH; undefined: one below its --store. */
  readonly volumeName: string | undefined;
  readonly path: string;
  /** The hub's. */
  readonly stateDir: string;
}

/** @throws OperationError when a hub has the image, or it can't be put back */
export async function recoverTarget(
  target: RecoverTarget,
  checkOnly: boolean,
  logger: Logger,
): Promise<Recovery> {
  const { volumeName, path: file, stateDir } = target;
  const isPaired = volumeName !== undefined;
  const name = volumeName ?? path.basename(file);
  const place: ReplicaPlace = { key: name, vmName: '', volumeName: name, path: file, isPaired };
  const images = fileImages(logger);
  const catalog = new Catalog({ pairs: new Map(), storeDir: undefined, stateDir, images, logger });
  try {
    return await recoverImage({
      path: file,
      record: catalog.recordPlace(place),
      undo: catalog.undoPlace(place)!,
      openImage: () => openAlone(file, logger),
      look: (durably) => catalog.look(place, durably),
      checkOnly,
      logger,
    });
  } catch (error) {
    throw recoveryFailed(file, error);
  }
}

async function openAlone(file: string, logger: Logger) {
  try {
    return await openFileDevice({ path: file, logger });
  } catch (error) {
    if (!(error instanceof OperationError) || !/in use/.test(error.message)) throw error;
    throw new OperationError(`${file} is in use: a hub, or whoever was started from it, has it`, {
      hint: 'stop that first; an image is put back only while nobody else has it',
      cause: error,
    });
  }
}
