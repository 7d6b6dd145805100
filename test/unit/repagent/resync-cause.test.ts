// What an agent says of why its hub has to read, as a table.
import { expect, test } from 'vitest';
import type { ResyncCause } from '../../../src/base/resync-reason.ts';
import { type Attaching, attachCause } from '../../../src/repagent/resync-cause.ts';

const lost: ResyncCause = { reason: 'link-lost', detail: 'reset' };
const resized: ResyncCause = { reason: 'resized', detail: null };
const none = { before: undefined, lost: undefined } as const;

test.each<[what: string, attaching: Attaching, reason: string, detail: string | null]>([
  ['the first start ever', { ...none, now: 'a:1', finding: 'new' }, 'start', null],
  ['nothing is kept', { ...none, now: 'a:1', finding: undefined }, 'start', null],
  ['an end in order', { ...none, now: 'a:1', finding: 'clean' }, 'restart', null],
  ['a kill', { ...none, now: 'a:1', finding: 'agent-crash' }, 'agent-crash', null],
  ['a power failure', { ...none, now: 'a:1', finding: 'host-crash' }, 'host-crash', null],
  ['the same with an exact map', { ...none, now: 'a:1', finding: 'exact' }, 'host-crash', null],
  ['a changed image', { ...none, now: 'a:1', finding: 'image-changed' }, 'image-changed', null],
  ['a damaged map', { ...none, now: 'a:1', finding: 'corrupt' }, 'map-lost', null],
  ['the map of another', { ...none, now: 'a:1', finding: 'foreign' }, 'map-lost', null],
  ['a lost link', { before: 'a:1', now: 'a:1', lost, finding: 'clean' }, 'link-lost', 'reset'],
  ['a larger disk', { before: 'a:1', now: 'a:1', lost: resized, finding: 'clean' }, 'resized', null],
  ['a hub that began anew', { before: 'a:1', now: 'a:2', lost, finding: 'clean' }, 'hub-restart', 'reset'],
  ['another hub', { before: 'a:1', now: 'b:1', lost, finding: 'clean' }, 'other-hub', 'reset'],
  ['a hub of the RFC', { before: 'a:1', now: undefined, lost, finding: 'clean' }, 'link-lost', 'reset'],
])('%s', (_what, attaching, reason, detail) => {
  expect(attachCause(attaching)).toEqual({ reason, detail });
});
