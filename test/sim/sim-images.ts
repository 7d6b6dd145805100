// The hub's images: the product's own store over simulated disks, with a look at whether the hub keeps to the contract
// of a store. An image that a dead process had open may be opened again.
import { OperationError } from '../../src/base/errors.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { Mutation } from '../../src/blockdev/mutation.ts';
import type { ImageOpener } from '../../src/rephub/image-opener.ts';
import { ImageStore } from '../../src/rephub/image-store.ts';
import type { ImageLook } from '../../src/rephub/replica-record.ts';
import type { ReplicaStore } from '../../src/rephub/replica-store.ts';
import type { UndoPlace } from '../../src/rephub/undo-file.ts';
import type { SimDisk } from './sim-disk.ts';

export class SimImage {
  readonly disk: SimDisk;
  /** The next opens fail. */
  failOpens = 0;
  /** An append is not answered yet: what the image holds is between two positions. */
  isAppending = false;
  isOpen = false;
  commits = 0;
  readonly violations: string[] = [];

  constructor(disk: SimDisk) {
    this.disk = disk;
  }

  processDied(): void {
    this.isAppending = false;
    this.isOpen = false;
  }
}

/** How an image looks from outside. */
export function lookOf({ identity, changedAtMs, isEmpty }: SimDisk): ImageLook {
  const changedAtNs = String(BigInt(Math.round(changedAtMs * 1000)) * 1000n);
  return { identity: String(identity), changedAtNs, isEmpty };
}

export type WrapStore = (store: ReplicaStore) => ReplicaStore;

export class SimImages implements ImageOpener {
  readonly #images: ReadonlyMap<string, SimImage>;
  readonly #wrap: WrapStore;
  readonly undoPlace?: (file: string) => UndoPlace;

  /**
   * @param wrap puts something between the hub and its stores: a bug that has to be found
   * @param undoPlace where undo logs are kept; without it none are
   */
  constructor(
    images: ReadonlyMap<string, SimImage>,
    wrap: WrapStore = (store) => store,
    undoPlace?: (file: string) => UndoPlace,
  ) {
    this.#images = images;
    this.#wrap = wrap;
    if (undoPlace) this.undoPlace = undoPlace;
  }

  async identify(path: string): Promise<string | undefined> {
    return this.#images.has(path) ? `simulated:${path}` : undefined;
  }

  async look(path: string, durably: boolean): Promise<ImageLook | undefined> {
    const disk = this.#images.get(path)?.disk;
    const look = disk && lookOf(disk);
    if (durably) disk?.syncTimes();
    return look;
  }

  async open(path: string): Promise<ReplicaStore> {
    const image = this.#images.get(path);
    if (!image) throw new OperationError(`${path}: no such image`);
    if (image.failOpens > 0) {
      image.failOpens -= 1;
      throw new OperationError(`simulated EIO in open of ${path}`);
    }
    if (image.isOpen) {
      image.violations.push('open of an image that is open');
      throw new OperationError(`${path} is in use`);
    }
    image.isOpen = true;
    return new CheckedStore(image, this.#wrap(new ImageStore(image.disk)));
  }
}

class CheckedStore implements ReplicaStore {
  readonly #image: SimImage;
  readonly #store: ReplicaStore;
  #isClosed = false;
  #isBroken = false;
  #isCommitting = false;

  constructor(image: SimImage, store: ReplicaStore) {
    this.#image = image;
    this.#store = store;
  }

  get sizeBytes(): number {
    return this.#store.sizeBytes;
  }

  append(batch: readonly Mutation[]): MaybePromise<void> {
    const image = this.#image;
    this.#expect(!this.#isClosed, 'append to a closed store');
    this.#expect(!image.isAppending, 'append while another one runs');
    const result = this.#store.append(batch);
    if (!(result instanceof Promise)) return undefined;
    image.isAppending = true;
    return result.finally(() => {
      image.isAppending = false;
    });
  }

  async commit(): Promise<void> {
    const image = this.#image;
    this.#expect(!this.#isClosed, 'commit of a closed store');
    this.#expect(!this.#isBroken, 'commit after a commit that failed');
    this.#expect(!image.isAppending, 'commit while an append runs');
    this.#expect(!this.#isCommitting, 'commit while another one runs');
    this.#isCommitting = true;
    try {
      await this.#store.commit();
      image.commits += 1;
    } catch (error) {
      this.#isBroken = true;
      throw error;
    } finally {
      this.#isCommitting = false;
    }
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#store.read(offset, target);
  }

  grow(sizeBytes: number): Promise<void> {
    return this.#store.grow(sizeBytes);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    try {
      await this.#store.close();
    } finally {
      this.#image.isOpen = false;
    }
  }

  #expect(condition: boolean, what: string): void {
    if (!condition) this.#image.violations.push(what);
  }
}
