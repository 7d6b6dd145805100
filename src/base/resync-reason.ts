// Why a replica had to be synchronised, by names that both sides, the log and the documentation share. Each is said by
// whoever knows it; nobody guesses.

/** In the order of the numbers by which DIRTY and ACK carry them; new ones go to the end. */
export const RESYNC_REASONS = {
  unknown: 'whoever knows it did not say: a peer of an earlier version, or of the RFC',
  start: 'neither side remembers anything',
  restart: 'the agent was started again after it had ended in order',
  'link-lost': 'the connection was lost',
  'queue-full': 'the hub was too slow: changes did not fit the queue',
  'agent-crash': 'the agent had ended without closing its dirty map',
  'host-crash': "the agent's machine had ended without a shutdown",
  'map-lost': "the agent's dirty map was missing, damaged or not its own",
  'image-changed': "the agent's image was changed while it was not served",
  resized: 'the volume became larger',
  'agent-fault': 'the mirror failed inside the agent',
  'write-failed': "a guest's change failed at its own disk",
  'hub-storage': 'the hub could not store the replica',
  'hub-restart': 'the hub was started again',
  'other-hub': 'the agent was with another hub before',
  'record-lost': 'the hub has no record of the replica',
  operator: 'an operator chose whose disk counts',
  verification: 'a verification found differences',
  'image-new': 'the image of the replica is a new empty one',
} as const;
export type ResyncReason = keyof typeof RESYNC_REASONS;

const NAMES = Object.keys(RESYNC_REASONS) as readonly ResyncReason[];

export interface ResyncCause {
  readonly reason: ResyncReason;
  /** What is known beyond the name. */
  readonly detail: string | null;
}

export function resyncReasonNumber(reason: ResyncReason): number {
  return NAMES.indexOf(reason);
}

/** What a later version may say is unknown here. */
export function resyncReasonOf(number: number): ResyncReason {
  return NAMES[number] ?? 'unknown';
}
