// What the agent can say of one volume's protection: what the hub tells, what went wrong, how the sync moves on.
// It must never say more than is known: "protected" only while a hub says so.
import { LagHistory } from '../base/lag-history.ts';
import { StickyError } from '../base/sticky-error.ts';
import type { VolumeState } from '../control/status.ts';
import type { AckState } from '../repwire/constants.ts';
import type { Ack } from '../repwire/messages.ts';
import { UNKNOWN_TIME_US } from './dirty-map.ts';
import { SyncMeter } from './sync-meter.ts';

const RFC_ONLY =
  "the hub speaks only the RFC's protocol: it can't say how far it is, nor when the replica is complete";

/** Told together; there are few kinds. */
const MAX_FLAWS = 4;

export class VolumeHealth {
  readonly meter = new SyncMeter();
  /** How fast the queue empties. */
  readonly queueMeter = new SyncMeter();
  readonly lags = new LagHistory();
  readonly errors = new StickyError();
  /** Newest sequence that the hub said is durable. */
  ackedSequence = 0;
  #hubState: AckState | undefined;
  #following = false;
  #wasFollowed = false;
  #wasInSync = false;
  #rfcOnly = false;
  #failed = false;
  #lastError: string | undefined;
  readonly #flaws = new Set<string>();
  /** The newest list of what the hub has to read. Until that is acknowledged, "protected" is of an earlier time. */
  #listSequence = 0;

  /** What the hub says at present; undefined while it says nothing. */
  get hubState(): AckState | undefined {
    return this.#hubState;
  }

  /** Whether this hub's replica was complete at some time since it began from nothing. */
  get wasInSync(): boolean {
    return this.#wasInSync;
  }

  /** The hub can't or won't replicate the volume. */
  get isFailed(): boolean {
    return this.#failed;
  }

  get lastError(): string | null {
    return this.#lastError ?? this.#flaw ?? (this.#rfcOnly ? RFC_ONLY : null);
  }

  get #flaw(): string | undefined {
    return this.#flaws.size > 0 ? [...this.#flaws].join('; ') : undefined;
  }

  /** @param degraded changes go to the dirty map though a hub follows */
  state(degraded: boolean): VolumeState {
    if (this.#failed) return 'failed';
    if (!this.#following) return this.#wasFollowed ? 'degraded' : 'unprotected';
    if (degraded) return 'degraded';
    return this.#hubState ?? 'initial-sync';
  }

  /** A hub follows the volume. @param resumes it kept its replica */
  started(extensions: boolean, resumes: boolean): void {
    this.#following = true;
    this.#wasFollowed = true;
    this.#rfcOnly = !extensions;
    this.#failed = false;
    this.#lastError = undefined;
    this.#hubState = resumes ? 'resync' : 'initial-sync';
    this.meter.restart();
    if (resumes) return;
    this.#wasInSync = false;
    this.ackedSequence = 0;
  }

  /** The hub was told to read something. */
  listed(sequence: number): void {
    this.#listSequence = sequence;
    if (this.#hubState === 'protected') this.#hubState = 'resync';
  }

  stopped(): void {
    this.#following = false;
    this.#hubState = undefined;
  }

  acked(ack: Ack): void {
    if (ack.sequence > this.ackedSequence) this.ackedSequence = ack.sequence;
    const isStale = ack.state === 'protected' && ack.sequence < this.#listSequence;
    this.#hubState = isStale ? (this.#wasInSync ? 'resync' : 'initial-sync') : ack.state;
    if (ack.state === 'failed') {
      this.#failed = true;
      if (this.#lastError === undefined)
        this.fail('the hub says that replication of this volume failed; its log says why');
      return;
    }
    this.#failed = false;
    this.#lastError = undefined;
    if (this.#hubState === 'protected') this.#wasInSync = true;
    this.meter.note(ack.syncDoneBytes, ack.syncTotalBytes);
  }

  /** The hub refuses the volume. */
  refused(text: string): void {
    this.#failed = true;
    this.fail(text);
  }

  /** Something is wrong here for as long as the process runs, though replication goes on: no hub can say it is over. */
  flawed(text: string): void {
    if (this.#flaws.size < MAX_FLAWS) this.#flaws.add(text);
    this.errors.note(text);
  }

  /** Something went wrong here. */
  fail(text: string): void {
    this.#lastError = text;
    this.errors.note(text);
  }
}

/**
 * Age of the oldest change that isn't durable at the hub; null as long as the replica was never complete, and while
 * something is dirty of which only the persistent map knows, which keeps no times.
 * @param oldestTimeUs as the dirty map gives it
 * @param nowUs the time, Unix microseconds
 */
export function lagMs(wasInSync: boolean, oldestTimeUs: number, nowUs: number): number | null {
  if (!wasInSync || oldestTimeUs === UNKNOWN_TIME_US) return null;
  return oldestTimeUs === 0 ? 0 : Math.max(0, Math.round((nowUs - oldestTimeUs) / 1000));
}
