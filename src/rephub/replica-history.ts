// What a hub tells of a replica's past: how far behind it was. It must never tell more than is known: what an agent has
// not sent yet shows nowhere here.
import { LagHistory } from '../base/lag-history.ts';
import { steadyUs } from '../base/steady-clock.ts';
import type { VolumeState } from '../control/status.ts';
import type { ReplicaLink } from './replica-link.ts';

/** A replica, as far as its lag goes. */
export interface Lagging {
  readonly state: VolumeState;
  readonly link: Pick<ReplicaLink, 'clockOffsetUs'> | undefined;
  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  readonly oldestPendingUs: number;
}

export class ReplicaHistory {
  readonly lags = new LagHistory();

  /** To be called before everything that changes the lag or the state. @returns the lag, ms; null: unknown */
  noteLag(replica: Lagging): number | null {
    const nowUs = steadyUs();
    const lag = lagMs(replica, nowUs);
    this.lags.note(lag, nowUs / 1000);
    return lag;
  }
}

/**
 * Age of the oldest change that came and is not durable; null while nobody knows what the replica lacks.
 * @param nowUs the time, Unix microseconds
 */
export function lagMs({ state, link, oldestPendingUs }: Lagging, nowUs: number): number | null {
  const offsetUs = link?.clockOffsetUs ?? null;
  if (offsetUs === null || state !== 'protected') return null;
  if (oldestPendingUs === 0) return 0;
  return Math.max(0, Math.round((nowUs + offsetUs - oldestPendingUs) / 1000));
}
