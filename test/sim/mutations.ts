// Deliberate bugs, one at a time: each is a mistake that somebody could make in the agent or the hub, put in from
// outside for the length of a run. The simulator has to find every one of them.
import { Bitmap } from '../../src/base/bitmap.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { Mutation as Change } from '../../src/blockdev/mutation.ts';
import { RangeLock } from '../../src/blockdev/range-lock.ts';
import { DirtyMap } from '../../src/repagent/dirty-map.ts';
import { MirrorFilter } from '../../src/repagent/mirror-filter.ts';
import { MirrorEntry, MirrorQueue } from '../../src/repagent/mirror-queue.ts';
import { MirrorStream } from '../../src/repagent/mirror-stream.ts';
import { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import { CommitLedger } from '../../src/rephub/commit-ledger.ts';
import { Replica } from '../../src/rephub/replica.ts';
import { ReplicaContent } from '../../src/rephub/replica-content.ts';
import type { ReplicaStore } from '../../src/rephub/replica-store.ts';
import { StoreLane } from '../../src/rephub/store-lane.ts';
import { SyncEngine } from '../../src/rephub/sync-engine.ts';
import { SyncRead } from '../../src/rephub/sync-read.ts';
import { around, type Bug, both, gets, without } from './bugs.ts';

/** A store that does all but one thing right. */
export class WrongStore implements ReplicaStore {
  protected readonly below: ReplicaStore;

  constructor(below: ReplicaStore) {
    this.below = below;
  }

  get sizeBytes(): number {
    return this.below.sizeBytes;
  }

  append(batch: readonly Change[]): MaybePromise<void> {
    return this.below.append(batch);
  }

  commit(): Promise<void> {
    return this.below.commit();
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.below.read(offset, target);
  }

  grow(sizeBytes: number): Promise<void> {
    return this.below.grow(sizeBytes);
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

class NoSyncStore extends WrongStore {
  override async commit(): Promise<void> {}
}

class BackwardsStore extends WrongStore {
  override append(batch: readonly Change[]): MaybePromise<void> {
    return super.append([...batch].reverse());
  }
}

class CarelessStore extends WrongStore {
  override append(batch: readonly Change[]): MaybePromise<void> {
    try {
      const result = super.append(batch);
      return result instanceof Promise ? result.catch(() => undefined) : result;
    } catch {
      return undefined;
    }
  }
}

export const BUGS: readonly Bug[] = [
  { name: 'the hub acknowledges before the sync has ended', wrapStore: (store) => new NoSyncStore(store) },
  {
    name: 'the hub stores the changes of a batch in another order',
    wrapStore: (store) => new BackwardsStore(store),
  },
  { name: 'the hub goes on after an append that failed', wrapStore: (store) => new CarelessStore(store) },
  {
    name: 'the hub acknowledges what came after the commit began',
    enter: () =>
      gets(Replica.prototype, 'ackedSequence', function () {
        return this.receivedSequence;
      }),
  },
  {
    name: 'the agent clears a dirty bit when the change is queued',
    enter: () =>
      around(DirtyMap.prototype, 'complete', (self, complete, token, offset, length, sequence) => {
        complete(token, offset, length, sequence);
        if (sequence > 0) self.acked(sequence);
      }),
  },
  {
    name: 'the agent marks a range dirty only after it was written',
    enter: () =>
      both(
        around(DirtyMap.prototype, 'begin', (_self, begin, offset, length) =>
          without(Bitmap.prototype, 'set', () => begin(offset, length)),
        ),
        around(DirtyMap.prototype, 'complete', (self, complete, token, offset, length, sequence) => {
          const first = Math.floor(offset / self.granularityBytes);
          token?.bits.set(first, Math.floor((offset + length - 1) / self.granularityBytes) + 1);
          complete(token, offset, length, sequence);
        }),
      ),
  },
  {
    name: 'overlapping changes of guests do not wait for each other',
    enter: () => around(RangeLock.prototype, 'overlaps', () => false),
  },
  {
    name: 'a list of what is dirty gets lost when the link comes back',
    enter: () =>
      around(MirrorStream.prototype, 'dirty', (_self, dirty, owner, chunks, chunkBytes) =>
        dirty(owner, (sequence) => new Bitmap(chunks(sequence).sizeBits), chunkBytes),
      ),
  },
  {
    name: 'what a full queue refused is taken for queued',
    enter: () =>
      around(
        MirrorStream.prototype,
        'write',
        (self, write, owner, offset, data) => write(owner, offset, data) || self.sequence,
      ),
  },
  {
    name: 'a full queue takes more all the same',
    enter: () => around(MirrorQueue.prototype, 'hasRoom', () => true),
  },
  {
    name: 'trims are not mirrored',
    enter: () =>
      around(Replica.prototype, 'zero', (_self, zero, offset, length, trim, timeUs) =>
        zero(offset, trim ? 0 : length, trim, timeUs),
      ),
  },
  {
    name: 'a write that failed at the agent is not read again',
    enter: () => around(Replica.prototype, 'failedChange', () => undefined),
  },
  {
    name: 'the agent keeps the bytes of a write without copying them',
    enter: () =>
      around(MirrorEntry.prototype, 'keep', (self, _keep, data) => {
        self.bytes = data;
        self.costBytes += data.length;
      }),
  },
  {
    name: 'the answer of a read overwrites newer data of the stream',
    enter: () => around(SyncRead.prototype, 'supersede', () => undefined),
  },
  {
    name: 'the hub takes a read for consistent before the stream has passed it',
    enter: () => around(SyncEngine.prototype, 'finishRead', (_self, finishRead, read) => finishRead(read, 0)),
  },
  {
    name: 'the agent answers a read while a change of its range is under way',
    enter: () => around(RangeLock.prototype, 'ended', () => undefined),
  },
  {
    name: 'the hub promises to resume from a position that it did not reach',
    enter: () =>
      around(Replica.prototype, 'attach', (_self, attach, link, vmName) => {
        const resume = attach(link, vmName);
        return resume === null ? null : resume + 3;
      }),
  },
  {
    name: 'the agent resumes at a hub that began anew',
    enter: () =>
      around(ProtectedVolume.prototype, 'start', (_self, start, wireId, _hubKey, resume) =>
        start(wireId, 'any', resume ?? 0),
      ),
  },
  {
    name: 'the hub forgets what a failed commit put in doubt',
    enter: () => around(StoreLane.prototype, 'takeDoubtful', () => undefined),
  },
  {
    name: 'a commit that began before a new round of reading settles it',
    enter: () =>
      both(
        around(CommitLedger.prototype, 'unsettle', () => undefined),
        // Which by itself keeps such a commit from being acknowledged.
        around(StoreLane.prototype, 'guard', () => undefined),
      ),
  },
  {
    name: 'the hub drops what comes while its store is broken',
    enter: () =>
      around(ReplicaContent.prototype, 'change', (self, change, mutation, offset, length) => {
        if (self.isOpen) change(mutation, offset, length);
      }),
  },
  {
    name: 'reads on their way when the link went down count as answered',
    enter: () =>
      around(SyncEngine.prototype, 'dropReads', (_self, dropReads) =>
        without(Bitmap.prototype, 'set', () => dropReads()),
      ),
  },
  {
    name: 'every tenth write of a guest waits for the link',
    enter: () => {
      let count = 0;
      return around(MirrorFilter.prototype, 'write', (_self, write, offset, data, fua) => {
        const result = write(offset, data, fua);
        count += 1;
        return count % 10 === 0 ? Promise.resolve(result).then(() => waitMs(1)) : result;
      });
    },
  },
];

function waitMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
