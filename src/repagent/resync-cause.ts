// What an agent knows of why its hub has to read: how the last run ended, what became of the connection, which hub it is.
import type { ResyncCause, ResyncReason } from '../base/resync-reason.ts';
import type { ClaimFinding } from '../repwire/constants.ts';

const OF_FINDING: Readonly<Record<ClaimFinding, ResyncReason>> = {
  new: 'start',
  clean: 'restart',
  'agent-crash': 'agent-crash',
  exact: 'host-crash',
  'host-crash': 'host-crash',
  'image-changed': 'image-changed',
  corrupt: 'map-lost',
  foreign: 'map-lost',
};

export interface Attaching {
  /** The hub that the map was relative to until now, as `id:epoch`; undefined: there was none in this run, or one of the RFC's. */
  readonly before: string | undefined;
  /** The one that begins; undefined: it knows the RFC alone. */
  readonly now: string | undefined;
  /** How the last connection ended; undefined: there was none in this run. */
  readonly lost: ResyncCause | undefined;
  /** What was found of the kept map when this run began; undefined: none is kept. */
  readonly finding: ClaimFinding | undefined;
}

export function attachCause({ before, now, lost, finding }: Attaching): ResyncCause {
  if (!lost) return { reason: finding ? OF_FINDING[finding] : 'start', detail: null };
  if (before === undefined || now === undefined || before === now) return lost;
  const isSameHub = before.split(':')[0] === now.split(':')[0];
  return { reason: isSameHub ? 'hub-restart' : 'other-hub', detail: lost.detail };
}
