// Deliberate bugs in what agent and hub keep: their maps' files, their records, and how the two rely on each other's.
import { Bitmap } from '../../src/base/bitmap.ts';
import { DirtyMap } from '../../src/repagent/dirty-map.ts';
import { DirtySidecar } from '../../src/repagent/dirty-sidecar.ts';
import { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import { AgentMachine } from './agent-machine.ts';
import { around, type Bug, both, gets, without } from './bugs.ts';
import { SimFiles } from './sim-files.ts';
import { SimImages } from './sim-images.ts';
import { SimMapFile } from './sim-map-file.ts';

/** The draft of a file that is replaced as a whole. */
const DRAFT = '.new';

export const FILE_BUGS: readonly Bug[] = [
  {
    name: 'a bit leaves the file before the hub has acknowledged its data',
    enter: () =>
      around(DirtyMap.prototype, 'retirable', (_self, retirable) => {
        const { bits } = retirable();
        bits.setAll();
        return { bits, sequence: 0 };
      }),
  },
  {
    name: 'a bit is set in the file after its data was written',
    enter: () =>
      around(DirtySidecar.prototype, 'mark', (_self, mark, first, end) => {
        setImmediate(() => mark(first, end));
      }),
  },
  {
    name: 'a new change does not keep the bit that is about to leave the file',
    enter: () =>
      around(DirtySidecar.prototype, 'mark', (_self, mark, first, end) =>
        without(Bitmap.prototype, 'clear', () => mark(first, end)),
      ),
  },
  {
    name: 'an exact map lets data be written before its bit is durable',
    enter: () => around(ProtectedVolume.prototype, 'bitsDurable', () => undefined),
  },
  {
    name: 'an exact map loses a bit whose data is not durable at the agent',
    enter: () => gets(DirtySidecar.prototype, 'isExact', () => false),
  },
  {
    name: 'the head of the map is written before what it vouches for is durable',
    enter: () => {
      let skips = false;
      return both(
        around(DirtySidecar.prototype, 'adopt', (_self, adopt, pairing, generation) => {
          skips = true;
          return adopt(pairing, generation);
        }),
        around(SimMapFile.prototype, 'sync', (_self, sync) => {
          if (!skips) return sync();
          skips = false;
          return Promise.resolve();
        }),
      );
    },
  },
  {
    name: 'the file of the map is never synced',
    enter: () => around(SimMapFile.prototype, 'sync', () => Promise.resolve()),
  },
  { name: 'the agent does not notice that its machine was started again', sameBoot: true },
  {
    name: 'the agent does not look whether its image was changed meanwhile',
    enter: () =>
      around(AgentMachine.prototype, 'imageMark', () => ({ mark: Buffer.alloc(16, 1), changedAtMs: 0 })),
  },
  {
    name: 'the agent goes on trusting its map after a flush that failed',
    enter: () => around(ProtectedVolume.prototype, 'unflushed', () => undefined),
  },
  {
    name: 'the agent does not raise the generation of what it keeps',
    enter: () =>
      around(DirtySidecar.prototype, 'adopt', (self, adopt, pairing, generation) =>
        adopt(pairing, self.pairing === pairing ? self.generation : generation),
      ),
  },
  {
    name: 'a record is written over the one before',
    enter: () =>
      both(
        around(SimFiles.prototype, 'write', (_self, write, file, text) =>
          write(file.replace(DRAFT, ''), text),
        ),
        both(
          around(SimFiles.prototype, 'sync', (_self, sync, file) => sync(file.replace(DRAFT, ''))),
          around(SimFiles.prototype, 'rename', (_self, rename, from, to) =>
            from.endsWith(DRAFT) ? Promise.resolve() : rename(from, to),
          ),
        ),
      ),
  },
  {
    name: 'the content of a record is not durable before its name',
    enter: () =>
      around(SimFiles.prototype, 'sync', (_self, sync, file) =>
        file.endsWith(DRAFT) ? Promise.resolve() : sync(file),
      ),
  },
  {
    name: 'the name of a record is not durable before the agent relies on it',
    enter: () =>
      around(SimFiles.prototype, 'sync', (_self, sync, file) =>
        file.endsWith('/replicas') ? Promise.resolve() : sync(file),
      ),
  },
  {
    name: 'a record names a time of writing that is not durable',
    enter: () => around(SimImages.prototype, 'look', (_self, look, path) => look(path, false)),
  },
  {
    name: 'the hub does not look at the image of a replica',
    enter: () => around(SimImages.prototype, 'look', () => Promise.resolve(undefined)),
  },
];
