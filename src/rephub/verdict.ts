// Who is ahead, agent or replica, and why: decided from what both have kept, before any data flows. Pure. Where their
// stories don't fit together nobody is overwritten: the volume is refused until somebody chooses.
import type { ResyncReason } from '../base/resync-reason.ts';
import type { Claim } from '../repwire/messages.ts';
import { isStrange } from './recovery-point.ts';
import type { ImageLook, ReplicaRecord } from './replica-record.ts';

/** How much younger than its record an image may be after the hub was killed, ms: records follow every few seconds. */
const RECORD_SLACK_MS = 30_000;

export type Verdict =
  /** The replica lacks what the agent's map names. */
  | { readonly kind: 'recall'; readonly cause: ResyncReason; readonly reason: string }
  /** It is this volume's, but what it lacks is not known. */
  | {
      readonly kind: 'compare';
      readonly cause: ResyncReason;
      readonly pairing: bigint;
      readonly reason: string;
    }
  /** Nobody has a claim on what is there. */
  | { readonly kind: 'new'; readonly cause: ResyncReason; readonly reason: string }
  | { readonly kind: 'refuse'; readonly conflict: Conflict; readonly reason: string };

export const CONFLICTS = {
  held: 'the replica is kept as it is, by choice',
  'record-damaged': 'the record of the replica is damaged, so that nobody knows whose it is',
  'other-agent': 'the replica belongs to another agent',
  'image-replaced': 'the image of the replica was replaced by another one',
  'image-rolled-back': 'the image of the replica is older than its record: it was rolled back',
  'image-changed': 'the image of the replica was changed while the hub did not have it',
  'other-replica': 'the agent remembers another replica than this one',
  'hub-rolled-back':
    'the hub has forgotten what it had confirmed: replica or record were restored from an older copy',
  'agent-rolled-back':
    "the agent has forgotten what it had confirmed: its state or its disk were restored from an older copy, and the replica may be newer than the agent's disk",
} as const;
export type Conflict = keyof typeof CONFLICTS;

/** Conflicts in which nobody knows what the image holds. */
export const STRANGE_IMAGE: ReadonlySet<Conflict> = new Set([
  'record-damaged',
  'image-replaced',
  'image-rolled-back',
  'image-changed',
]);

export interface Case {
  readonly record: ReplicaRecord | 'damaged' | undefined;
  /** As it looks now; undefined when it can't be told, or the hub has had it in its hands all the time. */
  readonly image: ImageLook | undefined;
  /** Hexadecimal; null: an agent without an id. */
  readonly agentId: string | null;
  /** Undefined: an agent that keeps nothing. */
  readonly claim: Claim | undefined;
}

export function judge({ record, image, agentId, claim }: Case): Verdict {
  if (record === undefined) {
    if (!claim?.pairing) return { kind: 'new', cause: 'start', reason: 'start' };
    return {
      kind: 'compare',
      cause: 'record-lost',
      pairing: 0n,
      reason: 'the hub has no record of the replica',
    };
  }
  if (record === 'damaged') return refuse('record-damaged');
  if (image?.isEmpty && isOtherImage(record, image))
    return { kind: 'new', cause: 'image-new', reason: 'the image is new' };
  if (record.isHeld) return refuse('held');
  // An agent that keeps nothing leaves nothing behind that could be defended.
  const isDefended = record.agentId !== null && (record.pairing !== 0n || record.isChosen);
  if (isDefended && record.agentId !== agentId) {
    return refuse('other-agent', `agent ${record.agentId}, not ${agentId ?? 'one without an id'}`);
  }
  const imageConflict = image && record.image ? judgeImage(record, record.image, image) : undefined;
  if (imageConflict) return refuse(imageConflict);
  if (!claim) return { kind: 'new', cause: 'map-lost', reason: 'the agent keeps no dirty map' };
  if (record.isChosen) return { kind: 'compare', cause: 'operator', pairing: 0n, reason: 'operator' };
  if (record.pairing === 0n) {
    return { kind: 'new', cause: 'map-lost', reason: 'the last agent kept no dirty map' };
  }
  if (claim.pairing === 0n) return { kind: 'compare', pairing: 0n, ...lostMap(claim) };
  if (claim.pairing !== record.pairing) {
    // The hub began another relation, and the link was lost before the agent had kept it.
    const isUnkept = !record.isConfirmed && isPrevious(record, claim);
    if (!isUnkept) return refuse('other-replica');
    return {
      kind: 'compare',
      cause: 'link-lost',
      pairing: record.pairing,
      reason: 'the attachment before did not begin',
    };
  }
  return judgePair(record, claim);
}

/** The one text that names a conflict to people. */
function conflictText(conflict: Conflict, detail: string): string {
  return detail === '' ? CONFLICTS[conflict] : `${CONFLICTS[conflict]} (${detail})`;
}

function refuse(conflict: Conflict, detail = ''): Verdict {
  return { kind: 'refuse', conflict, reason: conflictText(conflict, detail) };
}

/** Whether the image is the one that the record speaks of, untouched by others. */
export function judgeImage(record: ReplicaRecord, then: ImageLook, now: ImageLook): Conflict | undefined {
  if (now.identity !== then.identity) return 'image-replaced';
  const thenNs = BigInt(then.changedAtNs);
  const nowNs = BigInt(now.changedAtNs);
  // Whatever the hub's clock says by now: it may have been set back.
  if (nowNs === thenNs) return undefined;
  if (nowNs < thenNs) return 'image-rolled-back';
  if (record.isClean) return 'image-changed';
  const lastMs = Math.max(record.writtenAtMs, Number(thenNs / 1_000_000n));
  return Number(nowNs / 1_000_000n) > lastMs + RECORD_SLACK_MS ? 'image-changed' : undefined;
}

/** Whether another image is in the place of the one that the record speaks of, as far as its look tells. */
export function isOtherImage(record: ReplicaRecord | undefined, now: ImageLook | undefined): boolean {
  return !!record?.image && !!now && now.identity !== record.image.identity;
}

/** Whether others changed the image, as far as its look tells. */
export function isChanged(record: ReplicaRecord | undefined, now: ImageLook | undefined): boolean {
  return !!record?.image && !!now && judgeImage(record, record.image, now) !== undefined;
}

/** The agent has kept what the hub knows that it had kept before the newest attachment. */
function isPrevious({ previousPairing, previousGeneration }: ReplicaRecord, claim: Claim): boolean {
  return claim.pairing === previousPairing && claim.generation === previousGeneration;
}

function judgePair(record: ReplicaRecord, claim: Claim): Verdict {
  const { generation, isConfirmed, sequence, previousSequence } = record;
  const positions = `attachment ${claim.generation}.${claim.recordedSequence} at the agent, ${generation}.${sequence} at the hub`;
  if (claim.generation > generation) return refuse('hub-rolled-back', positions);
  if (claim.generation < generation) {
    // The hub began an attachment that the agent never heard of.
    if (isConfirmed || !isPrevious(record, claim)) return refuse('agent-rolled-back', positions);
  } else {
    if (claim.recordedSequence > sequence) return refuse('hub-rolled-back', positions);
    // Whatever the agent echoed it had made durable: even a power failure doesn't take that back.
    if (claim.recordedSequence < previousSequence) return refuse('agent-rolled-back', positions);
  }
  if (isStrange(record.point)) {
    const reason = 'the replica was found to differ, and put back to that';
    return { kind: 'compare', cause: 'verification', pairing: record.pairing, reason };
  }
  if (claim.isBelieved) {
    const isCrash = claim.finding === 'agent-crash';
    return isCrash
      ? { kind: 'recall', cause: 'agent-crash', reason: 'agent crash' }
      : { kind: 'recall', cause: claim.finding === 'exact' ? 'host-crash' : 'restart', reason: 'restart' };
  }
  return { kind: 'compare', pairing: record.pairing, ...lostMap(claim) };
}

function lostMap({ finding }: Claim): { readonly cause: ResyncReason; readonly reason: string } {
  switch (finding) {
    case 'host-crash':
      return { cause: 'host-crash', reason: 'host crash' };
    case 'image-changed':
      return {
        cause: 'image-changed',
        reason: "the agent's image was changed while its dirty map was not kept",
      };
    case 'corrupt':
    case 'foreign':
      return { cause: 'map-lost', reason: "the agent's dirty map was damaged" };
    case 'new':
    case 'clean':
    case 'agent-crash':
    case 'exact':
      return { cause: 'map-lost', reason: "the agent's dirty map is new" };
  }
}
