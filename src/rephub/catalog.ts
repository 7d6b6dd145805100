// Which volume's replica lies where: paired by name with existing images, or kept in a folder by machine and volume.
// No image may ever serve two volumes, by whatever path it is reached, and no name leads out of the folder.
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorMessage, OperationError } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';
import { type Logger, silentLogger } from '../base/log.ts';
import { safeName } from '../base/safe-name.ts';
import type { FileCalls } from '../base/small-files.ts';
import { BLOCK_IDENTITY, type ImageOpener } from './image-opener.ts';
import { memoryRecord, type RecordPlace, recordFile } from './record-file.ts';
import { isOutdated } from './recovery-point.ts';
import type { ImageLook } from './replica-record.ts';
import type { ReplicaStore, UndoStatus } from './replica-store.ts';
import type { UndoPlace } from './undo-file.ts';
import { imageName, peekUndo } from './undo-reader.ts';
import { type UndoNote, UndoStore, type WhenUndoFull } from './undo-store.ts';

/** No name of a volume becomes one that ends so. */
const RECORD_SUFFIX = '%record';
const UNDO_SUFFIX = '%undo';

/** The head of an undo log and a batch of it, whatever the volume's size. */
const LEAST_UNDO_BYTES = 2 * MiB;

export interface ReplicaPlace {
  /** Names the replica in this process. */
  readonly key: string;
  readonly vmName: string;
  readonly volumeName: string;
  readonly path: string;
  readonly isPaired: boolean;
}

export interface CatalogOptions {
  /** Volume name to path of an existing image. */
  readonly pairs: ReadonlyMap<string, string>;
  /** Where replicas of volumes without a pair are kept; without it they are refused. */
  readonly storeDir: string | undefined;
  /** Where the records of paired images are kept; without it they are gone with the process. */
  readonly stateDir?: string | undefined;
  readonly images: ImageOpener;
  /** How records are kept; the system's files unless told. */
  readonly files?: FileCalls | undefined;
  readonly undo?: UndoSettings | undefined;
  readonly logger?: Logger | undefined;
}

export interface UndoSettings {
  /** Most bytes of one volume's undo log; twice the volume's unless given, which it can't reach; 0: none is kept. */
  readonly maxBytes?: number | undefined;
  readonly whenFull: WhenUndoFull;
}

export class Catalog {
  readonly #options: CatalogOptions;
  /** Who has which image. */
  readonly #owners = new Map<string, ReplicaPlace>();

  constructor(options: CatalogOptions) {
    this.#options = options;
  }

  /** The paired volumes. */
  get pairs(): ReplicaPlace[] {
    return [...this.#options.pairs].map(([name, file]) => pairPlace(name, file, ''));
  }

  /**
   * Opens and closes every paired image, so that what is wrong with one shows at the start.
   * @returns their sizes by key, bytes
   * @throws OperationError with the next step
   */
  async checkPairs(): Promise<Map<string, number>> {
    const sizes = new Map<string, number>();
    for (const place of this.pairs) {
      await this.#claim(place, await this.#identifyPair(place));
      const store = await this.#options.images.open(place.path, undefined);
      sizes.set(place.key, store.sizeBytes);
      await store.close();
    }
    return sizes;
  }

  /** Where the replica of a reported volume lies, or undefined when there is no place for it. */
  locate(vmName: string, volumeName: string): ReplicaPlace | undefined {
    const paired = this.#options.pairs.get(volumeName);
    if (paired !== undefined) return pairPlace(volumeName, paired, vmName);
    const { storeDir } = this.#options;
    if (storeDir === undefined) return undefined;
    const relative = path.join(safeName(vmName), safeName(volumeName));
    return {
      key: `store:${relative}`,
      vmName,
      volumeName,
      path: path.join(storeDir, relative),
      isPaired: false,
    };
  }

  /** Where the record of a replica is kept: in the folder beside it, so that who copies the folder copies it too. */
  recordPlace(place: ReplicaPlace): RecordPlace {
    const file = this.#fileOf(place, RECORD_SUFFIX);
    return file === undefined ? memoryRecord() : recordFile(file, this.#options.files);
  }

  /** Where its undo log is kept; undefined: nowhere. */
  undoPlace(place: ReplicaPlace): UndoPlace | undefined {
    const file = this.#fileOf(place, UNDO_SUFFIX);
    return file === undefined ? undefined : this.#options.images.undoPlace?.(file);
  }

  /** What there is to go back with, as far as a look tells that opens nothing. */
  async peekUndo(place: ReplicaPlace): Promise<UndoStatus | undefined> {
    const undo = this.undoPlace(place);
    if (!undo) return undefined;
    const record = await this.recordPlace(place).load();
    const undoId = record && record !== 'damaged' ? record.undoId : null;
    return peekUndo(undo, await this.#imageOf(place), undoId);
  }

  /** How the image of a place looks now. @param durably it won't look older than that after a power failure */
  async look(place: ReplicaPlace, durably: boolean): Promise<ImageLook | undefined> {
    return this.#options.images.look?.(place.path, durably);
  }

  /**
   * Opens the replica of a volume; in the folder it is created, sparse, when it is missing.
   * @param sizeBytes the volume's
   * @param grows the volume grew since it was replicated last: an image that is smaller is made larger. One in the
   *   folder always is, since nobody else has a say in its size
   * @param note where it is kept that the image can't do without its undo log; nowhere unless given
   * @throws OperationError: missing, another size, in use by another volume, storage errors
   */
  async openStore(
    place: ReplicaPlace,
    sizeBytes: number,
    grows = false,
    note?: UndoNote,
  ): Promise<ReplicaStore> {
    const { images } = this.#options;
    let identity = place.isPaired ? await this.#identifyPair(place) : await images.identify(place.path);
    let store: ReplicaStore;
    if (identity === undefined) {
      await makeFolder(path.dirname(place.path));
      store = await images.open(place.path, sizeBytes);
      identity = await images.identify(place.path);
    } else {
      await this.#claim(place, identity);
      store = await images.open(place.path, undefined);
    }
    try {
      if (identity !== undefined) await this.#claim(place, identity);
      if (store.sizeBytes < sizeBytes && (grows || !place.isPaired)) await store.grow(sizeBytes);
      if (store.sizeBytes !== sizeBytes) throw wrongSize(place, sizeBytes, store.sizeBytes, identity);
      return await this.#withUndo(place, store, note);
    } catch (error) {
      await store.close().catch(() => undefined);
      throw error;
    }
  }

  async #withUndo(place: ReplicaPlace, store: ReplicaStore, note?: UndoNote): Promise<ReplicaStore> {
    const undo = this.undoPlace(place);
    if (!undo) return store;
    const { volumeName } = place;
    const record = await this.recordPlace(place).load();
    return UndoStore.open(store, {
      place: undo,
      note: note ?? { logId: null, keep: async () => {} },
      image: await this.#imageOf(place),
      volumeName,
      isOutdated: (point) => record !== undefined && record !== 'damaged' && isOutdated(point, record),
      maxBytes: this.#options.undo?.maxBytes ?? 2 * store.sizeBytes + LEAST_UNDO_BYTES,
      whenFull: this.#options.undo?.whenFull ?? 'hold',
      logger: this.#options.logger ?? silentLogger,
    });
  }

  /** How an undo log knows the image. */
  async #imageOf(place: ReplicaPlace): Promise<string> {
    return imageName(path.resolve(place.path), await this.look(place, false));
  }

  #fileOf(place: ReplicaPlace, suffix: string): string | undefined {
    if (!place.isPaired) return `${place.path}${suffix}`;
    const { stateDir } = this.#options;
    return stateDir === undefined
      ? undefined
      : path.join(stateDir, 'replicas', `${safeName(place.volumeName)}${suffix}`);
  }

  async #identifyPair(place: ReplicaPlace): Promise<string> {
    const identity = await this.#options.images.identify(place.path);
    if (identity !== undefined) return identity;
    throw new OperationError(`volume ${place.volumeName}: its image ${place.path} does not exist`, {
      hint: `create it with the volume's size: truncate -s SIZE ${place.path}, or use --store DIR`,
    });
  }

  async #claim(place: ReplicaPlace, identity: string): Promise<void> {
    const owner = this.#owners.get(identity);
    if (owner && owner.key !== place.key) {
      // The file system may have given the number of a file that was removed to another one.
      if ((await this.#options.images.identify(owner.path)) === identity) {
        throw new OperationError(
          `volumes ${owner.volumeName} and ${place.volumeName} have the same image: ${owner.path}` +
            (owner.path === place.path ? '' : `, also known as ${place.path}`),
          { hint: 'give each volume an image of its own' },
        );
      }
    }
    for (const [other, held] of this.#owners) if (held.key === place.key) this.#owners.delete(other);
    this.#owners.set(identity, place);
  }
}

function pairPlace(volumeName: string, file: string, vmName: string): ReplicaPlace {
  return { key: `pair:${volumeName}`, vmName, volumeName, path: file, isPaired: true };
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await fs.mkdir(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new OperationError(`cannot create ${folder}: ${errorMessage(error)}`, {
      hint: 'check --store: the folder must exist or be creatable',
      cause: error,
    });
  }
}

function wrongSize(
  place: ReplicaPlace,
  volumeBytes: number,
  imageBytes: number,
  identity: string | undefined,
): OperationError {
  return new OperationError(
    `volume ${place.volumeName} has ${volumeBytes} bytes, its replica ${place.path} has ${imageBytes} bytes`,
    {
      hint: identity?.startsWith(BLOCK_IDENTITY)
        ? `use a device or file of exactly ${volumeBytes} bytes`
        : `truncate -s ${volumeBytes} ${place.path}`,
    },
  );
}
