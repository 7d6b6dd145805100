// The life of one connection, as data: docs draw their diagram from it, and nothing else decides what follows what.

export type ConnectionState = 'handshake' | 'transmission' | 'draining' | 'away' | 'closing' | 'dead';
export type ConnectionEvent =
  /** The client chose an export. */
  | 'negotiated'
  /** It chose one that another server carries out, which has the socket now. */
  | 'handed'
  /** The server goes down. */
  | 'drain'
  /** Nothing more will be carried out: DISC, ABORT, the end of the stream, or the end of the server. */
  | 'finish'
  /** The socket is gone. */
  | 'lost';

interface StateRow {
  readonly sentence: string;
  readonly on: Partial<Record<ConnectionEvent, ConnectionState>>;
}

export const CONNECTION_STATES: Readonly<Record<ConnectionState, StateRow>> = {
  handshake: {
    sentence: 'Options are answered, under a deadline.',
    on: { negotiated: 'transmission', handed: 'away', drain: 'draining', finish: 'closing', lost: 'dead' },
  },
  transmission: {
    sentence: 'Requests are carried out.',
    on: { drain: 'draining', finish: 'closing', lost: 'dead' },
  },
  draining: {
    sentence: 'New options and requests are refused; requests in flight are answered.',
    on: { finish: 'closing', lost: 'dead' },
  },
  away: {
    sentence: 'Another server carries its requests out; here it is only counted, until it is gone there.',
    on: { lost: 'dead' },
  },
  closing: {
    sentence: 'What arrives is thrown away; when all that is in flight is answered, the connection ends.',
    on: { lost: 'dead' },
  },
  dead: { sentence: 'The socket is gone, and so is all memory that it held.', on: {} },
};

/** The state after `event`; the same one where the event means nothing. */
export function nextState(state: ConnectionState, event: ConnectionEvent): ConnectionState {
  return CONNECTION_STATES[state].on[event] ?? state;
}
