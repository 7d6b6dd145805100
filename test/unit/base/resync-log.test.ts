// The list of resyncs: bounded, and a reason is only replaced by one that says more.
import { expect, it } from 'vitest';
import { MAX_RESYNCS, ResyncLog, type ResyncRecord } from '../../../src/base/resync-log.ts';
import {
  RESYNC_REASONS,
  type ResyncReason,
  resyncReasonNumber,
  resyncReasonOf,
} from '../../../src/base/resync-reason.ts';

function log(): { readonly log: ResyncLog; readonly ended: ResyncRecord[] } {
  const ended: ResyncRecord[] = [];
  return { log: new ResyncLog((record) => ended.push(record)), ended };
}

const because = (reason: ResyncReason) => ({ reason, detail: null });

it('counts for the one that runs, and tells once when it has ended', () => {
  const { log: resyncs, ended } = log();
  resyncs.read(5);
  resyncs.end('done');
  expect(ended).toEqual([]);
  resyncs.begin({ reason: 'queue-full', detail: 'why' });
  resyncs.read(7);
  resyncs.read(1);
  resyncs.compared(20, false);
  resyncs.compared(30, true);
  resyncs.changed(null);
  expect(resyncs.records[0]).toMatchObject({ outcome: 'running', changedBytes: null });
  resyncs.changed(3);
  resyncs.changed(4);
  resyncs.end('cut-short');
  resyncs.end('done');
  expect(ended).toMatchObject([
    {
      reason: 'queue-full',
      detail: 'why',
      outcome: 'cut-short',
      readBytes: 8,
      comparedBytes: 50,
      differingBytes: 30,
      changedBytes: 7,
    },
  ]);
  expect(resyncs.records).toEqual(ended);
  expect(resyncs.reason).toBe('queue-full');
});

it('keeps the newest few, and few further reasons', () => {
  const { log: resyncs } = log();
  for (let i = 0; i < 3 * MAX_RESYNCS; i += 1) {
    resyncs.begin({ reason: 'link-lost', detail: String(i) });
    for (let more = 0; more < 40; more += 1) resyncs.begin(because(more % 2 ? 'queue-full' : 'write-failed'));
    resyncs.end('done');
  }
  expect(resyncs.records).toHaveLength(MAX_RESYNCS);
  expect(resyncs.records[0]!.detail).toBe(String(3 * MAX_RESYNCS - 1));
  expect(resyncs.records[0]!.furtherReasons).toHaveLength(MAX_RESYNCS);
});

it.each<[own: ResyncReason, told: ResyncReason, wins: boolean, result: ResyncReason]>([
  ['unknown', 'verification', false, 'verification'],
  ['restart', 'hub-restart', false, 'hub-restart'],
  ['link-lost', 'resized', false, 'resized'],
  ['link-lost', 'unknown', true, 'link-lost'],
  ['operator', 'restart', false, 'operator'],
  ['hub-restart', 'operator', true, 'operator'],
])('a resync by %s of which the other side says %s', (own, told, wins, result) => {
  const { log: resyncs } = log();
  resyncs.explain(told, wins);
  resyncs.begin(because(own));
  resyncs.explain(told, wins);
  expect(resyncs.reason).toBe(result);
});

it('numbers reasons in a way that never changes, and knows none from the future', () => {
  const names = Object.keys(RESYNC_REASONS) as ResyncReason[];
  for (const name of names) expect(resyncReasonOf(resyncReasonNumber(name))).toBe(name);
  expect(names.indexOf('unknown')).toBe(0);
  expect(names.indexOf('verification')).toBe(17);
  expect(resyncReasonOf(4_000_000_000)).toBe('unknown');
});
