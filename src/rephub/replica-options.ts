// What a replica is made with.
import type { Logger } from '../base/log.ts';
import type { HubTuning } from './hub-tuning.ts';
import type { ReplicaMemory, ReplicaMemoryOptions } from './replica-memory.ts';
import type { ReplicaStore } from './replica-store.ts';
import type { UndoNote } from './undo-store.ts';

export interface ReplicaOptions {
  readonly key: string;
  readonly volumeName: string;
  /** What its image has at the start, bytes; 0 when that is not known yet. */
  readonly sizeBytes?: number | undefined;
  /** @throws OperationError @param grows the image that is there may be smaller, and is made larger */
  readonly openStore: (sizeBytes: number, grows: boolean, note: UndoNote) => Promise<ReplicaStore>;
  readonly memory: (onRecorded: ReplicaMemoryOptions['onRecorded']) => ReplicaMemory;
  readonly tuning: HubTuning;
  readonly logger: Logger;
  /** The replica became complete and its agent shut down. */
  readonly onFinished?: () => void;
}
