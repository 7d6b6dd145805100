// Deliberate bugs in how a replica is kept from being made worse: in its undo log, in what is said of it, and in
// `recover`. Lives with undo logs have to show them.
import { Bitmap } from '../../src/base/bitmap.ts';
import type { Mutation as Change } from '../../src/blockdev/mutation.ts';
import { ReplicaMemory } from '../../src/rephub/replica-memory.ts';
import type { UndoFile } from '../../src/rephub/undo-file.ts';
import { UndoLog } from '../../src/rephub/undo-log.ts';
import { type UndoNote, UndoStore } from '../../src/rephub/undo-store.ts';
import { around, type Bug, both, gets } from './bugs.ts';
import { WrongStore } from './mutations.ts';
import { SimDisk } from './sim-disk.ts';
import { SimFiles } from './sim-files.ts';

/** Leaves out the commits that an undo store makes of its own accord: those before a log begins. */
class NoBaseStore extends WrongStore {
  static isUnasked = false;

  override commit(): Promise<void> {
    return NoBaseStore.isUnasked ? Promise.resolve() : super.commit();
  }
}

export const UNDO_BUGS: readonly Bug[] = [
  {
    name: 'an undo log is not synced before the image is overwritten',
    enter: () =>
      around(SimFiles.prototype, 'open', async (_self, open, file, isNew) => {
        const opened = await open(file, isNew);
        return Object.create(opened, { sync: { value: () => Promise.resolve() } }) as UndoFile;
      }),
  },
  {
    name: 'the image is overwritten while its old bytes are still being kept',
    enter: () =>
      around(UndoLog.prototype, 'protect', (_self, protect, batch: readonly Change[]) => {
        void protect(batch).catch(() => undefined);
        return Promise.resolve();
      }),
  },
  {
    name: 'the image is not durable when its undo log begins',
    wrapStore: (store) => new NoBaseStore(store),
    enter: () => {
      NoBaseStore.isUnasked = false;
      return around(UndoStore.prototype, 'commit', (_self, commit, settled) => {
        NoBaseStore.isUnasked = false;
        const committing = commit(settled);
        NoBaseStore.isUnasked = true;
        return committing;
      });
    },
  },
  {
    name: 'what was kept is kept again when it is overwritten again',
    enter: () => {
      let isAsking = false;
      const kept = new WeakSet<Bitmap>();
      return both(
        around(UndoLog.prototype, 'protect', (_self, protect, batch) => {
          isAsking = true;
          const protecting = protect(batch);
          isAsking = false;
          return protecting;
        }),
        both(
          around(Bitmap.prototype, 'nextClear', (self, nextClear, from) => {
            if (isAsking) kept.add(self);
            return kept.has(self) ? from : nextClear(from);
          }),
          around(Bitmap.prototype, 'nextSet', (self, nextSet, from) => (kept.has(self) ? -1 : nextSet(from))),
        ),
      );
    },
  },
  {
    name: 'an undo log is dropped before the record says that the image can do without it',
    enter: () => {
      const own = Object.getOwnPropertyDescriptor(ReplicaMemory.prototype, 'undoNote')!.get!;
      return gets(ReplicaMemory.prototype, 'undoNote', function () {
        const note = own.call(this) as UndoNote;
        return {
          get logId() {
            return note.logId;
          },
          keep: async (logId: string | null) => {
            if (logId !== null) return note.keep(logId);
            setTimeout(() => void note.keep(null).catch(() => undefined), 5);
          },
        };
      });
    },
  },
  {
    name: 'what may still be put back is acknowledged',
    enter: () =>
      around(UndoStore.prototype, 'commit', async (_self, commit, settled) => {
        await commit();
        if (settled !== undefined) void commit(settled).catch(() => undefined);
      }),
  },
  {
    name: '`recover` takes the log away before the image is durable',
    enter: () =>
      around(SimDisk.prototype, 'flush', (self, flush) => (self.owner === null ? undefined : flush())),
  },
];
