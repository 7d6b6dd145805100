// Who is ahead and why, as a table: what both sides kept on the left, what follows on the right.
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { UNKNOWN_POINT } from '../../../src/rephub/recovery-point.ts';
import { decodeRecord, encodeRecord, type ReplicaRecord } from '../../../src/rephub/replica-record.ts';
import { type Case, judge } from '../../../src/rephub/verdict.ts';
import type { Claim } from '../../../src/repwire/messages.ts';

const AGENT = 'a'.repeat(32);
const LOOK = { identity: '1:2', changedAtNs: '5000000000000000', isEmpty: false };

const record: ReplicaRecord = {
  vmName: 'vm',
  volumeName: 'disk',
  sizeBytes: 1 << 20,
  agentId: AGENT,
  pairing: 77n,
  generation: 9,
  previousPairing: 77n,
  previousGeneration: 8,
  isConfirmed: true,
  sequence: 100,
  previousSequence: 90,
  isComplete: true,
  point: null,
  undoId: null,
  image: LOOK,
  isClean: true,
  writtenAtMs: 5_000_000_001,
  isChosen: false,
  isHeld: false,
};

const claim: Claim = {
  kind: 'claim',
  volumeId: 1n,
  pairing: 77n,
  generation: 9,
  recordedSequence: 100,
  isBelieved: true,
  finding: 'clean',
};

interface Change {
  readonly record?: Partial<ReplicaRecord> | 'damaged' | 'none';
  readonly claim?: Partial<Claim> | 'none';
  readonly image?: Partial<typeof LOOK> | 'none';
  readonly agentId?: string | null;
}

function caseOf(change: Change): Case {
  const kept = change.record === 'none' ? undefined : change.record;
  return {
    record: change.record === 'none' ? undefined : kept === 'damaged' ? kept : { ...record, ...kept },
    image: change.image === 'none' ? undefined : { ...LOOK, ...change.image },
    agentId: change.agentId === undefined ? AGENT : change.agentId,
    claim: change.claim === 'none' ? undefined : { ...claim, ...change.claim },
  };
}

const killed = { isClean: false } as const;
const lost = { isBelieved: false, finding: 'host-crash' } as const;

const ROWS: ReadonlyArray<readonly [what: string, change: Change, outcome: string]> = [
  ['both as they were left', {}, 'recall'],
  ['the hub kept the image all the time', { image: 'none' }, 'recall'],
  ['the agent was killed', { claim: { finding: 'agent-crash' } }, 'recall'],
  ['the agent kept one record less', { claim: { recordedSequence: 90 } }, 'recall'],
  [
    'an attachment that the agent never heard of',
    { record: { isConfirmed: false }, claim: { generation: 8, recordedSequence: 3 } },
    'recall',
  ],
  ['the agent lost power', { claim: lost }, 'compare'],
  [
    'another relation, begun by the hub, that the agent never heard of',
    { record: { isConfirmed: false, previousPairing: 78n }, claim: { pairing: 78n, generation: 8 } },
    'compare',
  ],
  ['the agent lost power and its newest head', { claim: { ...lost, recordedSequence: 90 } }, 'compare'],
  [
    "the agent's map is gone",
    { claim: { pairing: 0n, generation: 0, isBelieved: false, finding: 'new' } },
    'compare',
  ],
  ['what a verification found to differ was put back', { record: { point: UNKNOWN_POINT } }, 'compare'],
  ['an operator chose this agent', { record: { isChosen: true, pairing: 0n } }, 'compare'],
  ['nobody was here before', { record: 'none', claim: { pairing: 0n } }, 'new'],
  ["the hub's record is gone", { record: 'none' }, 'compare'],
  ['an agent that keeps nothing', { claim: 'none' }, 'new'],
  ['after an agent that kept nothing, another', { record: { pairing: 0n }, agentId: 'b'.repeat(32) }, 'new'],
  ['the image is a new empty one', { image: { identity: '3:4', isEmpty: true } }, 'new'],
  ['the hub was killed, and the image is as its record', { record: killed }, 'recall'],
  [
    'the hub was killed soon after its record',
    { record: killed, image: { changedAtNs: '5000020000000000' } },
    'recall',
  ],
  [
    "the hub's clock was set back, and the hub was killed",
    { record: { ...killed, writtenAtMs: 1_000_000_000 } },
    'recall',
  ],
  [
    'the same, and the image was written soon after',
    { record: { ...killed, writtenAtMs: 1_000_000_000 }, image: { changedAtNs: '5000020000000000' } },
    'recall',
  ],

  ['another agent', { agentId: 'b'.repeat(32) }, 'other-agent'],
  ['an agent without an id', { agentId: null, claim: 'none' }, 'other-agent'],
  [
    'an agent that was not chosen',
    { record: { isChosen: true, pairing: 0n }, agentId: 'b'.repeat(32) },
    'other-agent',
  ],
  ['the record is damaged', { record: 'damaged' }, 'record-damaged'],
  ['an operator keeps the replica', { record: { isHeld: true } }, 'held'],
  ['another image', { image: { identity: '3:4' } }, 'image-replaced'],
  ['an older image', { image: { changedAtNs: '4999999999999999' } }, 'image-rolled-back'],
  [
    'an older image after a kill',
    { record: killed, image: { changedAtNs: '4999999999999999' } },
    'image-rolled-back',
  ],
  [
    'an image that was written after the close',
    { image: { changedAtNs: '5000000000000001' } },
    'image-changed',
  ],
  [
    'an image that was written long after a kill',
    { record: killed, image: { changedAtNs: '5000040000000000' } },
    'image-changed',
  ],
  [
    "the same when the hub's clock was set back",
    { record: { ...killed, writtenAtMs: 1_000_000_000 }, image: { changedAtNs: '5000040000000000' } },
    'image-changed',
  ],
  ['another replica is remembered', { claim: { pairing: 78n } }, 'other-replica'],
  [
    'another replica than the one before an attachment that did not begin',
    { record: { isConfirmed: false, previousPairing: 78n }, claim: { pairing: 79n, generation: 8 } },
    'other-replica',
  ],
  [
    'the replica before this one, when this one was begun with',
    { record: { previousPairing: 78n }, claim: { pairing: 78n, generation: 8 } },
    'other-replica',
  ],
  [
    'the replica before this one, an attachment too early',
    { record: { isConfirmed: false, previousPairing: 78n }, claim: { pairing: 78n, generation: 7 } },
    'other-replica',
  ],
  ['the hub is an attachment behind', { claim: { generation: 10 } }, 'hub-rolled-back'],
  ['the hub is a record behind', { claim: { recordedSequence: 101 } }, 'hub-rolled-back'],
  [
    'the same after a power failure of the agent',
    { claim: { ...lost, recordedSequence: 101 } },
    'hub-rolled-back',
  ],
  ['the agent is an attachment behind', { claim: { generation: 8 } }, 'agent-rolled-back'],
  [
    'the agent is two attachments behind',
    { record: { isConfirmed: false }, claim: { generation: 7 } },
    'agent-rolled-back',
  ],
  ['the agent is two records behind', { claim: { recordedSequence: 89 } }, 'agent-rolled-back'],
  [
    "the agent's running machine was restored as of then",
    { claim: { ...lost, recordedSequence: 89 } },
    'agent-rolled-back',
  ],
];

describe('who is ahead', () => {
  test.each(ROWS)('%s', (_what, change, outcome) => {
    const verdict = judge(caseOf(change));
    expect(verdict.kind === 'refuse' ? verdict.conflict : verdict.kind).toBe(outcome);
  });
});

describe('a record', () => {
  test('comes back as it was', () => {
    expect(decodeRecord(encodeRecord(record))).toEqual(record);
  });

  test('of the time before it told two pairings apart has one', () => {
    const outer = JSON.parse(encodeRecord({ ...record, previousPairing: 78n })) as { body: string };
    const body = outer.body.replace(/"previousPairing":"[^"]*",/, '');
    const sha256 = createHash('sha256').update(body).digest('hex');
    expect(decodeRecord(JSON.stringify({ sha256, body }))).toEqual(record);
  });

  test('is damaged when any byte of it is', () => {
    const text = encodeRecord(record);
    for (let at = 0; at < text.length - 1; at += 1) {
      const spoiled = `${text.slice(0, at)}${text[at] === '7' ? '8' : '7'}${text.slice(at + 1)}`;
      expect(decodeRecord(spoiled), `byte ${at}`).toBeUndefined();
    }
    expect(decodeRecord(text.slice(0, -20))).toBeUndefined();
    expect(decodeRecord('')).toBeUndefined();
  });
});
