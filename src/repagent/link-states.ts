// The life of the link to the hub as a table: what each state is, and where each event leads. An event that a state
// doesn't name leaves it as it is; `closed` is the one end, and nothing leads out of it.

export type LinkEvent =
  /** An attempt to reach the hub begins. */
  | 'dial'
  /** A connection stands. */
  | 'connected'
  /** The hub has said, by its first frame, which protocol it speaks. */
  | 'negotiated'
  /** Changes of a volume did not fit the queue. */
  | 'overflowed'
  /** Every volume is back in the stream. */
  | 'recovered'
  /** There is no connection, or it is gone. */
  | 'lost'
  /** The agent was asked to end. */
  | 'close'
  /** Nothing is left to do. */
  | 'ended';

export type LinkState = 'idle' | 'dialing' | 'hello' | 'live' | 'degraded' | 'closing' | 'closed';

interface LinkRow {
  readonly sentence: string;
  readonly on: Readonly<Partial<Record<LinkEvent, LinkState>>>;
}

export const LINK_STATES: Readonly<Record<LinkState, LinkRow>> = {
  idle: {
    sentence: 'No connection: waits for the start, or for the next attempt; changes go to the dirty map.',
    on: { dial: 'dialing', close: 'closing' },
  },
  dialing: {
    sentence: 'Connecting to the hub; changes go to the dirty map.',
    on: { connected: 'hello', lost: 'idle', close: 'closing' },
  },
  hello: {
    sentence: 'Connected and the volumes reported; the hub has not said yet which protocol it speaks.',
    on: { negotiated: 'live', lost: 'idle', close: 'closing' },
  },
  live: {
    sentence: 'Changes of every started volume are mirrored.',
    on: { overflowed: 'degraded', lost: 'idle', close: 'closing' },
  },
  degraded: {
    sentence:
      'Connected, but the hub is too slow: changes of some volume go to the dirty map until the queue has room.',
    on: { recovered: 'live', lost: 'idle', close: 'closing' },
  },
  closing: {
    sentence: 'The queue is sent and its acknowledgement awaited, then the hub is told that the agent ends.',
    on: { ended: 'closed' },
  },
  closed: { sentence: 'Ended; changes go to the dirty map.', on: {} },
};

/** Where `event` leads from `state`. */
export function nextLinkState(state: LinkState, event: LinkEvent): LinkState {
  return LINK_STATES[state].on[event] ?? state;
}
