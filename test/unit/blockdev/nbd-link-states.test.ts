// The table of the link's life: complete, without dead ends, with one end.
import { expect, it } from 'vitest';
import {
  LINK_EVENTS,
  LINK_STATES,
  LINK_TRANSITIONS,
  type LinkEvent,
  type LinkState,
  nextLinkState,
} from '../../../src/blockdev/nbd-client/link-states.ts';

const states = Object.keys(LINK_STATES) as LinkState[];
const events = Object.keys(LINK_EVENTS) as LinkEvent[];

function reachable(from: LinkState): Set<LinkState> {
  const seen = new Set<LinkState>([from]);
  for (const state of seen) for (const next of Object.values(LINK_TRANSITIONS[state])) seen.add(next);
  return seen;
}

it('reaches every state, and every state can end', () => {
  expect([...reachable('idle')].sort()).toEqual([...states].sort());
  for (const state of states) expect(reachable(state).has('closed'), state).toBe(true);
});

it('has one state that nothing leaves', () => {
  const ends = states.filter((state) => Object.keys(LINK_TRANSITIONS[state]).length === 0);
  expect(ends).toEqual(['closed']);
});

it('can be closed from everywhere but its end', () => {
  for (const state of states) {
    if (state === 'closing' || state === 'closed') continue;
    expect(['closing', 'closed']).toContain(LINK_TRANSITIONS[state].close);
  }
});

it('survives the loss of a connection wherever there is one', () => {
  for (const state of ['dialing', 'handshake', 'replaying', 'live', 'leaving'] as const) {
    expect(LINK_TRANSITIONS[state].lost).toBe('waiting');
  }
});

it('uses every event, and follows the table', () => {
  for (const event of events) {
    const users = states.filter((state) => LINK_TRANSITIONS[state][event] !== undefined);
    expect(users.length, event).toBeGreaterThan(0);
    for (const state of users) expect(nextLinkState(state, event)).toBe(LINK_TRANSITIONS[state][event]);
  }
});

it('refuses an event that makes no sense', () => {
  expect(() => nextLinkState('closed', 'ready')).toThrow('NBD link: ready in state closed');
});
