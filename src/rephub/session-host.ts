// The hub, as a session sees it.
import type { Logger } from '../base/log.ts';
import type { AgentSession } from './agent-session.ts';
import type { HubIdentity } from './hub-id.ts';
import type { HubTuning } from './hub-tuning.ts';
import type { Replica } from './replica.ts';

export interface SessionHost {
  readonly identity: HubIdentity;
  readonly name: string;
  readonly pingIntervalMs: number;
  readonly tuning: HubTuning;
  readonly logger: Logger;
  /** The replica of a reported volume, or undefined when there is no place for it. */
  replicaFor(vmName: string, volumeName: string): Replica | undefined;
  /** The agent said who it is: an older connection of the same life is dead, whatever it looks like. */
  introduced(session: AgentSession): void;
  ended(session: AgentSession): void;
}
