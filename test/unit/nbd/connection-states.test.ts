// The table of a connection's states keeps its promises, whatever happens in whatever order.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CONNECTION_STATES,
  type ConnectionEvent,
  type ConnectionState,
  nextState,
} from '../../../src/nbd/connection-states.ts';

const EVENTS: readonly ConnectionEvent[] = ['negotiated', 'handed', 'drain', 'finish', 'lost'];
const STATES = Object.keys(CONNECTION_STATES) as ConnectionState[];

describe('the states of a connection', () => {
  it('are all told in a sentence and all reached', () => {
    const reached = new Set<ConnectionState>(['handshake']);
    for (const state of STATES) {
      expect(CONNECTION_STATES[state].sentence).toMatch(/^[A-Z].*\.$/);
      for (const event of EVENTS) reached.add(nextState(state, event));
    }
    expect([...reached].sort()).toEqual([...STATES].sort());
  });

  it('end in death, from everywhere, for ever', () => {
    for (const state of STATES) expect(nextState(state, 'lost')).toBe('dead');
    for (const event of EVENTS) expect(nextState('dead', event)).toBe('dead');
  });

  it('never go back to carrying requests out', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...EVENTS)), (events) => {
        let state: ConnectionState = 'handshake';
        let over = false;
        for (const event of events) {
          state = nextState(state, event);
          over ||= state !== 'handshake' && state !== 'transmission';
          if (over) expect(['draining', 'away', 'closing', 'dead']).toContain(state);
        }
      }),
    );
  });
});
