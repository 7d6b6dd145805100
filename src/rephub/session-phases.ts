// The life of an agent's connection as a table: what each phase is, and which messages it takes. Any other message in
// a phase ends the connection.
import type { RepMessageKind } from '../repwire/messages.ts';

export type SessionPhase = 'reporting' | 'greeting' | 'hello' | 'rfc' | 'goodbye';

interface PhaseRow {
  readonly sentence: string;
  readonly takes: ReadonlySet<RepMessageKind>;
}

/** What an agent that knows the RFC alone sends while it works. */
const RFC_KINDS: readonly RepMessageKind[] = [
  'protectedWrite',
  'reportVmVolumes',
  'remoteIoResponse',
  'agentShutdown',
];

export const SESSION_PHASES: Readonly<Record<SessionPhase, PhaseRow>> = {
  reporting: {
    sentence: 'Connected; the agent has to report its volumes.',
    takes: new Set<RepMessageKind>(['reportVmVolumes']),
  },
  greeting: {
    sentence: 'The agent offered the extensions; both say HELLO before anything else.',
    takes: new Set<RepMessageKind>(['reportVmVolumes', 'hello']),
  },
  hello: {
    sentence: 'At work, with the extensions.',
    takes: new Set<RepMessageKind>([
      ...RFC_KINDS,
      'protectedZero',
      'protectedFlush',
      'dirty',
      'hashResponse',
      'packed',
      'ping',
      'pong',
      'verifyRequest',
      'claim',
      'recorded',
      'unknown',
    ]),
  },
  rfc: { sentence: 'At work, by the RFC alone.', takes: new Set<RepMessageKind>(RFC_KINDS) },
  goodbye: {
    sentence: 'The agent has shut down; nothing of its stream follows.',
    takes: new Set<RepMessageKind>([
      'ping',
      'pong',
      'remoteIoResponse',
      'packed',
      'hashResponse',
      'recorded',
      'unknown',
    ]),
  },
};
