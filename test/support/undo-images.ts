// Images in memory whose undo logs are in memory too, and what `repagent recover` does to one of them.
import path from 'node:path';
import { silentLogger } from '../../src/base/log.ts';
import { recordFile } from '../../src/rephub/record-file.ts';
import { type Recovery, recoverImage } from '../../src/rephub/recover.ts';
import type { UndoPlace } from '../../src/rephub/undo-file.ts';
import { MemoryImages } from './memory-images.ts';
import { MemoryUndoPlace } from './undo-rig.ts';

export class UndoImages extends MemoryImages {
  readonly #undo = new Map<string, MemoryUndoPlace>();

  undoPlace(file: string): UndoPlace {
    return this.undo(path.basename(file).replace('%undo', ''));
  }

  /** The undo log of a volume. */
  undo(volumeName: string): MemoryUndoPlace {
    let place = this.#undo.get(volumeName);
    if (!place) {
      place = new MemoryUndoPlace();
      this.#undo.set(volumeName, place);
    }
    return place;
  }

  /** @param stateDir the hub's @throws OperationError, also when the hub has the image */
  async recover(volumeName: string, stateDir: string, checkOnly = false): Promise<Recovery> {
    return recoverImage({
      path: path.resolve(volumeName),
      record: recordFile(path.join(stateDir, 'replicas', `${volumeName}%record`)),
      undo: this.undo(volumeName),
      openImage: async () => {
        const store = await this.open(volumeName, undefined);
        const write = async (offset: number, data: Buffer): Promise<void> =>
          store.append([{ kind: 'write', offset, data, fua: false }]);
        return {
          sizeBytes: store.sizeBytes,
          write,
          writeZeroes: (offset, length) => write(offset, Buffer.alloc(length)),
          flush: () => store.commit(),
          close: () => store.close(),
        };
      },
      look: async () => undefined,
      checkOnly,
      logger: silentLogger,
    });
  }
}
