// One volume's replica over all connections of its agent: its state, what it still lacks, what is durable, and what may
// be acknowledged. It must never acknowledge a change before the commit that covers it, nor call itself protected
// while any range is unread, nor promise to resume from a position that it did not reach.
import { assert } from '../base/assert.ts';
import { errorMessage } from '../base/errors.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { VolumeState } from '../control/status.ts';
import type { Dirty, DiskRange } from '../repwire/messages.ts';
import { CommitLedger } from './commit-ledger.ts';
import { ReplicaContent } from './replica-content.ts';
import { ReplicaHistory } from './replica-history.ts';
import type { AgentIdentity, ReplicaLink } from './replica-link.ts';
import type { Beginning, ReplicaMemory } from './replica-memory.ts';
import type { ReplicaOptions } from './replica-options.ts';
import { ReplicaReads } from './replica-reads.ts';
import { isSyncing, logChange, nextState, type ReplicaEvent, whatIsLeft } from './replica-states.ts';
import { RetryTimer } from './retry-timer.ts';
import { StreamStanding } from './stream-standing.ts';
import type { SyncEngine } from './sync-engine.ts';
import { SyncMeter } from './sync-meter.ts';

export class Replica {
  readonly key: string;
  readonly volumeName: string;
  vmName = '';
  lastError: string | null = null;
  /** Whether it has been protected since the hub started. */
  wasProtected = false;
  /** Whether its last agent shut down with the replica complete. */
  isFinished = false;
  /** Who may attach: a connection that has begun to start the volume. */
  claimant: unknown;
  readonly meter = new SyncMeter();
  readonly history: ReplicaHistory;
  readonly memory: ReplicaMemory;
  readonly content: ReplicaContent;
  readonly reads: ReplicaReads;
  readonly #options: ReplicaOptions;
  readonly #ledger = new CommitLedger();
  readonly #heal: RetryTimer;
  #state: VolumeState = 'unprotected';
  #link: ReplicaLink | undefined;
  /** The agent that the replica and its unread ranges are relative to. */
  readonly #standing = new StreamStanding();
  #ackedSequence = 0;
  #ending = false;

  constructor(options: ReplicaOptions) {
    this.key = options.key;
    this.volumeName = options.volumeName;
    this.memory = options.memory((position) => this.#link?.recorded(this, position));
    this.#options = options;
    this.history = new ReplicaHistory(options.logger, () => ({ volume: this.volumeName, vm: this.vmName }));
    const { sync, gatherMs, syncGatherMs, retryFirstMs, retryLongestMs } = options.tuning;
    this.content = new ReplicaContent({
      sizeBytes: options.sizeBytes ?? 0,
      tuning: sync,
      gatherMs: () => (isSyncing(this.#state) ? syncGatherMs : gatherMs),
      openStore: (sizeBytes, grows) => options.openStore(sizeBytes, grows, this.memory.undoNote),
      beforeChange: () => this.memory.beforeChange(),
      events: {
        commitBegins: () => this.#commitBegins(),
        committed: () => this.#committed(),
        storeFails: () => this.#storeFails(),
        storeFailed: (error) => this.#storeFailed(error),
      },
    });
    this.reads = new ReplicaReads({
      content: this.content,
      meter: this.meter,
      resyncs: this.history.resyncs,
      tuning: options.tuning,
      mayAsk: () => this.#link !== undefined && !this.awaitsDirty && this.#state !== 'failed',
      applied: () => this.#applied(),
      wake: () => this.#link?.wake(this),
    });
    this.#heal = new RetryTimer(retryFirstMs, retryLongestMs, () => void this.#tryHeal());
  }

  get state(): VolumeState {
    return this.#state;
  }

  get sizeBytes(): number {
    return this.engine.sizeBytes;
  }

  get engine(): SyncEngine {
    return this.content.engine;
  }

  /** Undefined: no agent is attached. */
  get link(): ReplicaLink | undefined {
    return this.#link;
  }

  /** Everything of this volume up to here is durable and the replica was complete: what the agent is told. */
  get ackedSequence(): number {
    return this.#ackedSequence;
  }

  /** The same for people: an idle volume is as far as its stream, without commit, record or word to the agent for it. */
  get durableSequence(): number {
    const isDone = this.content.isSettled && this.oldestPendingUs === 0 && this.isConsistent;
    return this.#state === 'protected' && isDone ? this.receivedSequence : this.#ackedSequence;
  }

  /** The newest position of the stream up to which this volume's changes were taken in. */
  get receivedSequence(): number {
    const { awaitsDirty, received } = this.#standing;
    return this.#link && !awaitsDirty ? this.#link.receivedSequence : received;
  }

  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  get oldestPendingUs(): number {
    return this.#ledger.oldestUs;
  }

  /**
   * Opens the replica's store for a volume of `sizeBytes` unless it is open.
   * @param agent who reports that size: a volume that it replicated before may have grown since
   * @returns whether what an agent knows of the replica is void
   * @throws OperationError, also kept as `lastError`
   */
  async prepare(sizeBytes: number, agent: AgentIdentity | null = null): Promise<boolean> {
    assert(!this.#link || sizeBytes === this.sizeBytes, 'a replica at work keeps its size');
    const grows = sizeBytes > this.sizeBytes && this.remembers(agent);
    try {
      if (!this.content.isOpen) this.memory.image.released();
      const isOther = await this.memory.prepare();
      const isVoid = (await this.content.open(sizeBytes, grows)) || isOther;
      this.memory.image.expectSeen();
      if (isVoid) this.#standing.forget();
      if (isOther) this.content.guard(null);
      return isVoid;
    } catch (error) {
      this.#ending = false;
      this.#enter('storeFailed', errorMessage(error));
      throw error;
    }
  }

  /** The volume can't be replicated, for a reason that `prepare` doesn't know of. */
  refuse(reason: string): void {
    assert(!this.#link, 'a replica at work is not refused');
    this.#ending = false;
    this.#enter('storeFailed', reason);
  }

  /** Whether both sides still have in memory what the replica lacks. */
  remembers(agent: AgentIdentity | null): boolean {
    return this.#standing.remembers(agent);
  }

  /**
   * A connection begins to replicate; `prepare` has succeeded.
   * @param beginning how, unless both sides remember
   * @returns the sequence up to which the replica holds itself responsible, or null: it starts from nothing
   */
  attach(link: ReplicaLink, vmName: string, beginning?: Beginning): number | null {
    assert(!this.#link && this.content.isOpen, 'attach needs an open replica without a connection');
    const resumes = this.remembers(link.agent);
    if (!resumes) this.content.guard(beginning?.point ?? null);
    else if (this.isConsistent || !this.content.isGuarded) this.content.guard(this.memory.point);
    // The commit that the last agent's goodbye waits for is still under way: the goodbye comes to nothing.
    if (this.#ending) this.#enter('linkLost');
    // That commit settles and acknowledges nothing of what comes now.
    this.#ledger.forgetCover();
    this.#link = link;
    this.history.attaching(beginning);
    this.#standing.begin(link.agent, resumes, beginning?.kind);
    this.#ending = false;
    this.isFinished = false;
    this.vmName = vmName;
    this.meter.start(performance.now());
    if (resumes) {
      this.memory.regained();
      this.engine.beginRound();
      this.#enter('startResume', null);
    } else {
      this.#ackedSequence = 0;
      this.#ledger.restart();
      const recalls = beginning?.kind === 'recall';
      if (recalls) this.engine.rebase();
      else this.engine.restart();
      this.#enter(recalls ? 'startResume' : 'startFull', null);
    }
    this.#react();
    return resumes ? this.#standing.received : null;
  }

  /**
   * The connection is over.
   * @param graceful the agent said goodbye after it had sent everything
   */
  detach(graceful: boolean, reason: string): void {
    assert(this.#link, 'detach without a connection');
    this.history.noteLag(this);
    this.history.detaching(reason);
    const { isConsistent: isWhole, receivedSequence: received } = this;
    if (isWhole) this.memory.passed(received, this.#ledger.madeUs(true), true);
    this.#standing.end(received);
    this.#link = undefined;
    this.memory.detached();
    this.engine.dropReads();
    this.#heal.stop();
    this.reads.stop();
    if (graceful && isWhole) {
      this.#ending = true;
      this.content.requestCommit(true);
      return;
    }
    const left = whatIsLeft(graceful, reason, isWhole, received);
    this.#enter('linkLost', this.#state === 'failed' ? this.lastError : left);
    this.content.requestCommit(true);
  }

  /** The stream's entry writes. Data is lent until the `apply` that follows was answered. */
  write(offset: number, data: Buffer, timeUs: number): void {
    this.#ledger.note(timeUs);
    this.content.write(offset, data);
  }

  /** The stream's entry makes the range zero. */
  zero(offset: number, length: number, trim: boolean, timeUs: number): void {
    this.#ledger.note(timeUs);
    this.content.zero(offset, length, trim);
  }

  /** The stream's entry is the guest's flush. */
  flush(timeUs: number): void {
    this.#ledger.note(timeUs);
    this.content.flush();
  }

  /** The stream's entry is a change that failed at the agent: what is there now has to be looked at. */
  failedChange(offset: number, length: number, timeUs: number): void {
    this.#leave(this.receivedSequence - 1);
    this.#ledger.note(timeUs);
    this.history.because({ reason: 'write-failed', detail: null });
    this.engine.markUnread(offset, length);
  }

  /** Ranges that changed without coming by the stream; the entry may have several parts. */
  dirty(part: Pick<Dirty, 'extents' | 'more' | 'timeUs' | 'reason' | 'changedBytes'>): void {
    // The list's own number is taken with its last part.
    if (part.extents.length > 0) this.#leave(this.receivedSequence - (part.more ? 0 : 1));
    this.#ledger.note(part.timeUs);
    for (const extent of part.extents) this.engine.markUnread(extent.offset, extent.length);
    if (part.more) return;
    this.history.listed(part, this.awaitsDirty);
    if (this.awaitsDirty) this.memory.confirmed();
    const isAllNamed = this.engine.remainingBytes === this.sizeBytes;
    if (this.awaitsDirty && this.#standing.mayBeEqual(isAllNamed)) this.engine.compareFirst();
    this.#standing.told();
  }

  /** Whether the agent still has to say what the replica lacks: nothing else of the stream may come before. */
  get awaitsDirty(): boolean {
    return this.#standing.awaitsDirty;
  }

  /** Stores what came since the last call. Answers when it is stored; failures become the replica's state. */
  apply(): MaybePromise<void> {
    return andThen(this.content.apply(), () => this.#applied());
  }

  /** The stream went on, maybe by changes of other volumes. Called after everything taken in was applied. */
  streamAdvanced(): void {
    if (this.#state === 'converging') this.#react();
  }

  /** A verification found ranges that differ: it was no state of the volume, and they are read anew. */
  repair(ranges: Iterable<DiskRange>): void {
    this.history.because({ reason: 'verification', detail: null });
    this.#ledger.unsettle();
    this.content.guard(this.memory.strange());
    for (const { offset, length } of ranges) this.engine.markUnread(offset, length);
    this.#react();
  }

  /** Whether it may be verified, and when that was done last, Unix milliseconds; 0: never. */
  get isProtected(): boolean {
    return this.#link?.agent != null && this.#state === 'protected';
  }

  get verifiedAtMs(): number {
    return this.memory.verifiedAtMs;
  }

  /** Whether the range equals the agent's disk at the stream's position, so that digests can be compared. */
  isComparable(offset: number, length: number): boolean {
    return this.#state === 'protected' && this.content.isIdle && !this.engine.isUnread(offset, length);
  }

  /** Waits for what is in flight, makes it durable, and lets go. Idempotent. @throws what the store's close threw */
  async close(): Promise<void> {
    this.#heal.stop();
    this.reads.stop();
    const { isConsistent } = this;
    let isWhole = false;
    try {
      await this.content.close();
      isWhole = true;
    } finally {
      await this.memory.close(isWhole, isConsistent);
    }
  }

  #applied(): void {
    this.#react();
    this.content.requestCommit();
  }

  /** What was taken in is a state of the volume: nothing is unread, and the stream has passed all that was read. */
  get isConsistent(): boolean {
    const { isComplete, targetSequence } = this.engine;
    const isKnown = this.#standing.isKnown && this.#state !== 'failed';
    return isKnown && isComplete && this.receivedSequence >= targetSequence;
  }

  /** The replica, which holds everything up to `sequence`, stops being a state of the volume with what comes next. */
  #leave(sequence: number): void {
    if (!this.isConsistent) return;
    // What led to it may fail to be stored: it was never there then.
    void this.content.apply();
    if (!this.isConsistent) return;
    this.#ledger.unsettle();
    this.content.guard(this.memory.passed(sequence, this.#ledger.madeUs(true), true));
  }

  /** Takes the steps that have become possible. */
  #react(): void {
    if (!this.#link || this.#state === 'failed') return;
    if (this.#state === 'initial-sync' || this.#state === 'resync') {
      if (this.engine.isComplete && !this.awaitsDirty) this.#enter('allRead');
      else this.#readOn();
    } else if (!this.engine.isComplete) {
      this.engine.beginRound();
      this.meter.start(performance.now());
      this.#ledger.unsettle();
      this.#enter('moreToRead');
      this.#readOn();
    }
    if (this.#state === 'converging' && this.isConsistent) this.content.requestCommit(true);
  }

  #readOn(): void {
    const stuck = this.reads.retryStuck();
    if (stuck !== undefined) {
      this.lastError = stuck;
      this.#options.logger.warn({ volume: this.volumeName }, stuck);
    }
    this.#link?.wake(this);
  }

  #commitBegins(): boolean {
    const { isConsistent, receivedSequence: sequence } = this;
    if (isConsistent) this.memory.settles(sequence, this.#ledger.madeUs(true));
    this.#ledger.begin({ sequence, settles: this.#state === 'converging' && isConsistent });
    return isConsistent;
  }

  #committed(): void {
    this.history.noteLag(this);
    const cover = this.#ledger.end();
    if (!cover) {
      this.content.requestCommit();
      return;
    }
    // What may still be put back to an earlier point is not acknowledged.
    const isSafe = this.#link && !this.content.isGuarded;
    if (cover.settles && isSafe && this.isConsistent) {
      this.wasProtected = true;
      this.#heal.reset();
      this.reads.reset();
      this.#ackedSequence = cover.sequence;
      this.memory.reached(cover.sequence, cover.timeUs);
      this.#enter('settled', null);
    } else if (this.#state === 'protected' && isSafe && cover.sequence > this.#ackedSequence) {
      this.#ackedSequence = cover.sequence;
      this.memory.reached(cover.sequence, cover.timeUs);
      this.#link?.tell(this);
    }
    if (this.#ending) this.#finish();
    else this.#react();
  }

  /** The agent is gone in order: once all is durable, the replica is what the volume was. */
  #finish(): void {
    if (!this.content.isSettled) {
      this.content.requestCommit(true);
      return;
    }
    this.#ending = false;
    this.#ackedSequence = this.#standing.received;
    this.wasProtected = true;
    this.isFinished = true;
    if (this.#state !== 'protected') {
      if (this.#state !== 'converging') this.#enter('allRead');
      this.#enter('settled', null);
    }
    this.#enter('agentEnded', null);
    this.#options.onFinished?.();
  }

  /** What was not durable may be gone; what a point that was left is worth now, the store knows. */
  #storeFails(): void {
    const { pointFate } = this.content;
    if (pointFate === 'kept') return;
    this.#ledger.unsettle();
    const durable = () => this.memory.durable(this.#ackedSequence, this.#ledger.madeUs(false));
    this.content.guard(pointFate === 'left' ? this.memory.lost() : durable());
  }

  #storeFailed(error: unknown): void {
    this.memory.image.released();
    this.#ending = false;
    this.#ledger.forgetCover();
    this.#options.logger.error({ volume: this.volumeName, err: error }, 'the replica cannot be stored');
    this.#enter('storeFailed', errorMessage(error));
    if (this.#link) this.#heal.start();
  }

  async #tryHeal(): Promise<void> {
    const isVoid = await this.prepare(this.sizeBytes).catch(() => undefined);
    if (!this.#link) return;
    if (isVoid === undefined) this.#heal.start();
    else if (isVoid) this.#link.end(new Error('the replica was exchanged, or put back, while it had failed'));
    if (isVoid !== false || this.#state !== 'failed') return;
    this.memory.regained();
    this.engine.beginRound();
    this.meter.start(performance.now());
    this.#enter('storeHealed');
    this.#react();
  }

  /** @param error the new `lastError`; left as it is when not given */
  #enter(event: ReplicaEvent, error?: string | null): void {
    const before = this.#state;
    this.history.noteLag(this);
    this.#state = nextState(before, event);
    this.history.followed(event, this.#state, this.lastError);
    if (error !== undefined) this.lastError = error;
    if (error) this.history.errors.note(error);
    if (this.#state !== before) logChange(this.#options.logger, this, before, error);
    this.#link?.tell(this);
  }
}
