// The life of a replica as a table: each state with a sentence, and what may happen in it. An event that the table
// doesn't know in a state is a bug of the hub and throws.
import { AssertionError } from '../base/assert.ts';
import type { Logger } from '../base/log.ts';
import { formatBytes } from '../base/size.ts';
import type { VolumeState } from '../control/status.ts';

/** What can happen to a replica. */
export const REPLICA_EVENTS = {
  startFull: 'an agent begins, and the replica has to be read from nothing',
  startResume: 'the agent is back, and both sides still know what the replica lacks',
  allRead: 'nothing is left to read',
  moreToRead: 'ranges changed without coming by the stream',
  settled: 'the stream has passed everything that was read, and all of it is durable',
  storeFailed: 'the replica could not be written, read or made durable',
  storeHealed: 'the replica can be written again',
  linkLost: 'the connection ended without a goodbye, or before the replica was complete',
  agentEnded: 'the agent shut down and the replica is complete and durable',
} as const;
export type ReplicaEvent = keyof typeof REPLICA_EVENTS;

interface StateRow {
  readonly sentence: string;
  readonly next: Readonly<Partial<Record<ReplicaEvent, VolumeState>>>;
}

export const REPLICA_STATES: Readonly<Record<VolumeState, StateRow>> = {
  unprotected: {
    sentence: 'No agent replicates the volume; the replica is as the last one left it.',
    next: { startFull: 'initial-sync', startResume: 'resync', storeFailed: 'failed' },
  },
  'initial-sync': {
    sentence: 'The whole volume is being read; the replica is not usable yet.',
    next: { allRead: 'converging', storeFailed: 'failed', linkLost: 'degraded' },
  },
  resync: {
    sentence:
      'What changed without coming by the stream is being read; the replica is not usable until then.',
    next: { allRead: 'converging', storeFailed: 'failed', linkLost: 'degraded' },
  },
  converging: {
    sentence: 'Everything was read; the stream has to catch up with the last read, then all is made durable.',
    next: { settled: 'protected', moreToRead: 'resync', storeFailed: 'failed', linkLost: 'degraded' },
  },
  protected: {
    sentence: 'The replica equals the volume at a position of its stream, and follows it.',
    next: { moreToRead: 'resync', storeFailed: 'failed', linkLost: 'degraded', agentEnded: 'unprotected' },
  },
  degraded: {
    sentence: 'The agent is gone without a goodbye; the replica stays as it was.',
    next: { startFull: 'initial-sync', startResume: 'resync', storeFailed: 'failed' },
  },
  failed: {
    sentence: 'The replica cannot be stored; what comes by the stream is only noted, to be read again.',
    next: {
      startFull: 'initial-sync',
      startResume: 'resync',
      storeHealed: 'resync',
      storeFailed: 'failed',
      linkLost: 'failed',
    },
  },
};

/** @throws AssertionError when `event` can't happen in `state` */
export function nextState(state: VolumeState, event: ReplicaEvent): VolumeState {
  const next = REPLICA_STATES[state].next[event];
  if (next === undefined) throw new AssertionError(`${event} can't happen to a replica that is ${state}`);
  return next;
}

/** Whether an agent is at work on a replica in `state`. */
export function isSyncing(state: VolumeState): boolean {
  return state === 'initial-sync' || state === 'resync' || state === 'converging';
}

/**
 * Why a replica is no longer followed, and what it is good for now: what somebody in need wants to know.
 * @param received the newest position of its stream; 0: unknown
 */
export function whatIsLeft(graceful: boolean, reason: string, isWhole: boolean, received: number): string {
  if (graceful) return 'the agent shut down before the replica was complete';
  if (!isWhole) return `${reason}; the replica is not complete`;
  if (received === 0) return `${reason}; the replica is complete`;
  return `${reason}; the replica is complete as of sequence ${received}`;
}

/** What an agent can't read of its disk. @param bytes how much @param offset where the first of it lies */
export function whatIsStuck(bytes: number, offset: number): string {
  return `the agent can't read ${formatBytes(bytes)}, the first at offset ${offset}`;
}

/** Writes down that a replica came from the state `before` to the one it is in. */
export function logChange(
  logger: Logger,
  now: { readonly volumeName: string; readonly vmName: string; readonly state: VolumeState },
  before: VolumeState,
  reason: string | null | undefined,
): void {
  const about = { volume: now.volumeName, vm: now.vmName, state: now.state, reason: reason ?? undefined };
  logger.info(about, `${before} -> ${now.state}`);
}
