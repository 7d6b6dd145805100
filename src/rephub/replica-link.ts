// The connection, as a replica sees it.
import type { Recorded } from '../repwire/messages.ts';
import type { Replica } from './replica.ts';

/** One life of an agent: what it keeps in memory is valid as long as both stay. */
export interface AgentIdentity {
  /** Hexadecimal. */
  readonly id: string;
  readonly epoch: bigint;
}

export interface ReplicaLink {
  /** Null without HELLO: there are no sequences, no acks, no resuming. */
  readonly agent: AgentIdentity | null;
  /** The newest entry of the agent's stream that was taken off the connection. */
  readonly receivedSequence: number;
  /** The agent's clock minus this one, microseconds; null while unknown. */
  readonly clockOffsetUs: number | null;
  /** State, acknowledged sequence or progress changed. */
  tell(replica: Replica): void;
  /** A position of the replica was recorded. */
  recorded(replica: Replica, position: Omit<Recorded, 'kind' | 'volumeId'>): void;
  /** There may be something to read. */
  wake(replica: Replica): void;
  /** Ends the connection: its agent has to begin anew. */
  end(reason: Error): void;
}

/** Whether both are the same life of one agent; nobody is the same as nobody. */
export function isSameLife(a: AgentIdentity | null, b: AgentIdentity | null): boolean {
  return a !== null && b !== null && a.id === b.id && a.epoch === b.epoch;
}
