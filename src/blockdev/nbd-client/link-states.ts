// The life of the link to an NBD server, as data: each state, what it means, and where each event leads. The code
// that acts is in link.ts; nothing here does anything.
import { assert } from '../../base/assert.ts';

export const LINK_STATES = {
  idle: 'Nothing was tried yet.',
  dialing: 'Connecting; requests wait.',
  handshake: 'Connected and negotiating; requests wait.',
  replaying:
    'Negotiated; changes that were answered but never flushed are sent once more, before anything else.',
  live: 'Requests flow.',
  leaving:
    'The server announced its shutdown, or one of several connections is gone; last replies are awaited, nothing new is sent.',
  waiting: 'The connection is gone; the next attempt is due after a pause, requests wait for it.',
  failed: 'The server can never continue what was begun; every request fails.',
  closing: 'Told to close; the server was told, its end of the connection is awaited.',
  closed: 'Over.',
} as const;
export type LinkState = keyof typeof LINK_STATES;

export const LINK_EVENTS = {
  open: 'the user wants a connection',
  connected: 'the socket is connected',
  ready: 'the handshake ended with an export',
  replayed: 'everything that had to be sent once more was answered',
  refused: 'the first attempt failed, or the export is no longer the one that was opened',
  leave: 'the server answered ESHUTDOWN, or one of several connections is gone',
  lost: 'the connection is gone',
  retry: 'the pause is over',
  close: 'the user wants no more',
} as const;
export type LinkEvent = keyof typeof LINK_EVENTS;

type Transitions = Readonly<Record<LinkState, Readonly<Partial<Record<LinkEvent, LinkState>>>>>;

export const LINK_TRANSITIONS: Transitions = {
  idle: { open: 'dialing', close: 'closed' },
  dialing: { connected: 'handshake', lost: 'waiting', refused: 'failed', close: 'closing' },
  handshake: { ready: 'replaying', lost: 'waiting', refused: 'failed', close: 'closing' },
  replaying: { replayed: 'live', leave: 'leaving', lost: 'waiting', close: 'closing' },
  live: { leave: 'leaving', lost: 'waiting', close: 'closing' },
  leaving: { lost: 'waiting', close: 'closing' },
  waiting: { retry: 'dialing', close: 'closed' },
  failed: { close: 'closed' },
  closing: { lost: 'closed' },
  closed: {},
};

/** Where `event` leads from `state`. @throws AssertionError when the event makes no sense there */
export function nextLinkState(state: LinkState, event: LinkEvent): LinkState {
  const next = LINK_TRANSITIONS[state][event];
  assert(next !== undefined, `NBD link: ${event} in state ${state}`);
  return next;
}
