// What a hub tells of a replica's past: how far behind it was, and why it was synchronised when. It must never tell more
// than is known: what an agent has not sent yet shows nowhere here, and a reason is named by whoever knows it.
import { LagHistory } from '../base/lag-history.ts';
import type { Logger } from '../base/log.ts';
import { ResyncLog } from '../base/resync-log.ts';
import type { ResyncCause } from '../base/resync-reason.ts';
import { steadyUs } from '../base/steady-clock.ts';
import { StickyError } from '../base/sticky-error.ts';
import type { VolumeState } from '../control/status.ts';
import type { Dirty } from '../repwire/messages.ts';
import type { ReplicaLink } from './replica-link.ts';
import type { Beginning } from './replica-memory.ts';
import { isSyncing, type ReplicaEvent } from './replica-states.ts';
import { VerifyHistory } from './verify-history.ts';

/** A replica, as far as its lag goes. */
export interface Lagging {
  readonly state: VolumeState;
  readonly link: Pick<ReplicaLink, 'clockOffsetUs'> | undefined;
  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  readonly oldestPendingUs: number;
}

export class ReplicaHistory {
  readonly lags = new LagHistory();
  readonly resyncs: ResyncLog;
  readonly verifications: VerifyHistory;
  readonly errors = new StickyError();
  /** Why the next resync will be. */
  #cause: ResyncCause | undefined;
  #changedBytes: number | null = null;
  #lastEnd: string | null = null;

  /** @param about names the replica in the log */
  constructor(logger: Logger, about: () => object) {
    this.verifications = new VerifyHistory(logger, about);
    this.resyncs = new ResyncLog((record) => logger.info({ ...about(), ...record }, 'a resync has ended'));
  }

  /** To be called before everything that changes the lag or the state. @returns the lag, ms; null: unknown */
  noteLag(replica: Lagging): number | null {
    const nowUs = steadyUs();
    const lag = lagMs(replica, nowUs);
    this.lags.note(lag, nowUs / 1000);
    return lag;
  }

  /** An agent begins. @param beginning undefined: both sides remember what the replica lacks */
  attaching(beginning: Beginning | undefined): void {
    this.#cause = beginning
      ? { reason: beginning.cause, detail: beginning.reason }
      : { reason: 'link-lost', detail: this.#lastEnd };
  }

  /** The connection is over. @param why in words */
  detaching(why: string): void {
    this.#lastEnd = why;
  }

  /** Something has to be read that the stream did not bring. */
  because({ reason, detail }: ResyncCause): void {
    if (this.resyncs.isOpen) this.resyncs.begin({ reason, detail });
    else this.#cause = { reason, detail };
  }

  /** The agent has said what the replica lacks, and why. @param isAnswer it is what an attachment begins with */
  listed(
    { reason, changedBytes, extents }: Pick<Dirty, 'reason' | 'changedBytes' | 'extents'>,
    isAnswer: boolean,
  ): void {
    if (isAnswer) this.resyncs.explain(reason);
    else if (extents.length > 0) this.because({ reason, detail: null });
    if (this.resyncs.isOpen) this.resyncs.changed(changedBytes);
    else if (extents.length > 0) this.#changedBytes = changedBytes;
  }

  /** The replica's state follows an event. @param error what is wrong, if anything */
  followed(event: ReplicaEvent, state: VolumeState, error: string | null): void {
    if (event === 'storeHealed') this.resyncs.begin({ reason: 'hub-storage', detail: error });
    else if (event === 'settled') this.resyncs.end('done');
    else if (!isSyncing(state)) this.resyncs.end('cut-short');
    else if (event === 'allRead' || (this.resyncs.isOpen && !this.#cause)) return;
    else this.resyncs.begin(this.#cause ?? { reason: 'unknown', detail: null });
    this.resyncs.changed(this.#changedBytes);
    this.#changedBytes = null;
    this.#cause = undefined;
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
