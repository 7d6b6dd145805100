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
import { type AgentIdentity, isSameLife, type ReplicaLink } from './replica-link.ts';
import type { Beginning, ReplicaMemory } from './replica-memory.ts';
import type { ReplicaOptions } from './replica-options.ts';
import { ReplicaReads } from './replica-reads.ts';
import {
  isSyncing,
  logChange,
  nextState,
  type ReplicaEvent,
  whatIsLeft,
  whatIsStuck,
} from './replica-states.ts';
import { RetryTimer } from './retry-timer.ts';
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
  readonly reads: ReplicaReads;
  readonly #options: ReplicaOptions;
  readonly #content: ReplicaContent;
  readonly #ledger = new CommitLedger();
  readonly #heal: RetryTimer;
  readonly #rereads: RetryTimer;
  #state: VolumeState = 'unprotected';
  #link: ReplicaLink | undefined;
  /** With HELLO, until the agent has said what the replica lacks: nothing may be read, resumed or trusted. */
  #awaitingDirty = false;
  /** The agent that the replica and its unread ranges are relative to, and up to where its stream was taken in. */
  #agent: AgentIdentity | null = null;
  #received = 0;
  #ackedSequence = 0;
  #ending = false;
  /** How the present attachment began, until the agent has said what the replica lacks. */
  #beginning: Beginning | undefined;

  constructor(options: ReplicaOptions) {
    this.key = options.key;
    this.volumeName = options.volumeName;
    this.memory = options.memory((position) => this.#link?.recorded(this, position));
    this.#options = options;
    this.history = new ReplicaHistory(options.logger, () => ({ volume: this.volumeName, vm: this.vmName }));
    const { sync, gatherMs, syncGatherMs, retryFirstMs, retryLongestMs } = options.tuning;
    this.#content = new ReplicaContent({
      sizeBytes: options.sizeBytes ?? 0,
      tuning: sync,
      gatherMs: () => (isSyncing(this.#state) ? syncGatherMs : gatherMs),
      openStore: options.openStore,
      events: {
        commitBegins: () => this.#commitBegins(),
        committed: () => this.#committed(),
        storeFailed: (error) => this.#storeFailed(error),
      },
    });
    this.reads = new ReplicaReads({
      content: this.#content,
      meter: this.meter,
      resyncs: this.history.resyncs,
      mayAsk: () => this.#link !== undefined && !this.#awaitingDirty && this.#state !== 'failed',
      applied: () => this.#applied(),
    });
    this.#heal = new RetryTimer(retryFirstMs, retryLongestMs, () => void this.#tryHeal());
    this.#rereads = new RetryTimer(retryFirstMs, retryLongestMs, () => {
      this.engine.retryDeferred();
      this.#link?.wake(this);
    });
  }

  get state(): VolumeState {
    return this.#state;
  }

  get sizeBytes(): number {
    return this.engine.sizeBytes;
  }

  get engine(): SyncEngine {
    return this.#content.engine;
  }

  /** Undefined: no agent is attached. */
  get link(): ReplicaLink | undefined {
    return this.#link;
  }

  /** Everything of this volume up to here is durable and the replica was complete: what the agent is told. */
  get ackedSequence(): number {
    return this.#ackedSequence;
  }

  /** The newest position of the stream up to which this volume's changes were taken in. */
  get receivedSequence(): number {
    return this.#link && !this.#awaitingDirty ? this.#link.receivedSequence : this.#received;
  }

  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  get oldestPendingUs(): number {
    return this.#ledger.oldestUs;
  }

  get doubtfulBytes(): number {
    return this.#content.doubtfulBytes;
  }

  /**
   * Opens the replica's store for a volume of `sizeBytes` unless it is open.
   * @param agent who reports that size: a volume that it replicated before may have grown since
   * @throws OperationError, also kept as `lastError`
   */
  async prepare(sizeBytes: number, agent: AgentIdentity | null = null): Promise<void> {
    assert(!this.#link || sizeBytes === this.sizeBytes, 'a replica at work keeps its size');
    const grows = sizeBytes > this.sizeBytes && isSameLife(agent, this.#agent);
    try {
      if (!this.#content.isOpen) this.memory.released();
      await this.memory.prepare();
      // What an agent knows of a replica is void with another size, unless it only grew.
      if (await this.#content.open(sizeBytes, grows)) this.#agent = null;
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
    return isSameLife(agent, this.#agent);
  }

  /**
   * A connection begins to replicate; `prepare` has succeeded.
   * @param beginning how, unless both sides remember
   * @returns the sequence up to which the replica holds itself responsible, or null: it starts from nothing
   */
  attach(link: ReplicaLink, vmName: string, beginning?: Beginning): number | null {
    assert(!this.#link && this.#content.isOpen, 'attach needs an open replica without a connection');
    const resumes = this.remembers(link.agent);
    // The commit that the last agent's goodbye waits for is still under way: the goodbye comes to nothing.
    if (this.#ending) this.#enter('linkLost');
    // That commit settles and acknowledges nothing of what comes now.
    this.#ledger.forgetCover();
    this.#link = link;
    this.#beginning = beginning;
    this.history.attaching(beginning);
    this.#agent = link.agent;
    this.#awaitingDirty = link.agent !== null;
    this.#ending = false;
    this.isFinished = false;
    this.vmName = vmName;
    this.meter.start(performance.now());
    if (resumes) {
      this.memory.regained();
      this.engine.beginRound();
      this.#enter('startResume', null);
    } else {
      this.#received = 0;
      this.#ackedSequence = 0;
      this.#ledger.restart();
      const recalls = beginning?.kind === 'recall';
      if (recalls) this.engine.rebase();
      else this.engine.restart();
      this.#enter(recalls ? 'startResume' : 'startFull', null);
    }
    this.#react();
    return resumes ? this.#received : null;
  }

  /**
   * The connection is over.
   * @param graceful the agent said goodbye after it had sent everything
   */
  detach(graceful: boolean, reason: string): void {
    assert(this.#link, 'detach without a connection');
    this.history.noteLag(this);
    this.history.detaching(reason);
    const isWhole = this.#isConsistent() && this.#state !== 'failed';
    this.#received = this.receivedSequence;
    // The agent never said what the replica lacks, and nothing of its stream was taken in: there is nothing to resume.
    if (this.#awaitingDirty && this.#received === 0) this.#agent = null;
    this.#link = undefined;
    this.#awaitingDirty = false;
    this.memory.detached();
    this.engine.dropReads();
    this.#heal.stop();
    this.#rereads.stop();
    if (graceful && isWhole) {
      this.#ending = true;
      this.#content.requestCommit(true);
      return;
    }
    this.#enter(
      'linkLost',
      this.#state === 'failed' ? this.lastError : whatIsLeft(graceful, reason, isWhole, this.#received),
    );
    this.#content.requestCommit(true);
  }

  /** The stream's entry writes. Data is lent until the `apply` that follows was answered. */
  write(offset: number, data: Buffer, timeUs: number): void {
    this.#ledger.note(timeUs);
    this.#content.write(offset, data);
  }

  /** The stream's entry makes the range zero. */
  zero(offset: number, length: number, trim: boolean, timeUs: number): void {
    this.#ledger.note(timeUs);
    this.#content.zero(offset, length, trim);
  }

  /** The stream's entry is the guest's flush. */
  flush(timeUs: number): void {
    this.#ledger.note(timeUs);
    this.#content.flush();
  }

  /** The stream's entry is a change that failed at the agent: what is there now has to be looked at. */
  failedChange(offset: number, length: number, timeUs: number): void {
    this.#ledger.note(timeUs);
    this.history.because({ reason: 'write-failed', detail: null });
    this.engine.markUnread(offset, length);
  }

  /** Ranges that changed without coming by the stream; the entry may have several parts. */
  dirty(part: Pick<Dirty, 'extents' | 'more' | 'timeUs' | 'reason' | 'changedBytes'>): void {
    this.#ledger.note(part.timeUs);
    for (const extent of part.extents) this.engine.markUnread(extent.offset, extent.length);
    if (part.more) return;
    this.history.listed(part, this.#awaitingDirty);
    if (this.#awaitingDirty) this.memory.confirmed();
    if (this.#awaitingDirty && this.#mayBeEqual()) this.engine.compareFirst();
    this.#awaitingDirty = false;
  }

  /** Whether the agent still has to say what the replica lacks: nothing else of the stream may come before. */
  get awaitsDirty(): boolean {
    return this.#awaitingDirty;
  }

  /** Stores what came since the last call. Answers when it is stored; failures become the replica's state. */
  apply(): MaybePromise<void> {
    return andThen(this.#content.apply(), () => this.#applied());
  }

  /** The stream went on, maybe by changes of other volumes. Called after everything taken in was applied. */
  streamAdvanced(): void {
    if (this.#state === 'converging') this.#react();
  }

  /** Acknowledges a position that the stream reached by other volumes' changes alone. */
  refreshAck(): void {
    if (this.#state !== 'protected' || !this.#content.isDurable) return;
    if (this.receivedSequence > this.#ackedSequence) this.#content.requestCommit();
  }

  /** A verification found ranges that differ: they are read anew. */
  repair(ranges: Iterable<DiskRange>): void {
    this.history.because({ reason: 'verification', detail: null });
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
    return this.#state === 'protected' && this.#content.isIdle && !this.engine.isUnread(offset, length);
  }

  /** @throws BlockError when it can't be read */
  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#content.read(offset, target);
  }

  /** Waits for what is in flight, makes it durable, and lets go. Idempotent. @throws what the store's close threw */
  async close(): Promise<void> {
    this.#heal.stop();
    this.#rereads.stop();
    let isWhole = false;
    try {
      await this.#content.close();
      isWhole = true;
    } finally {
      await this.memory.close(isWhole);
    }
  }

  #applied(): void {
    this.#react();
    this.#content.requestCommit();
  }

  /** Nothing is unread, and the stream has passed all that was read. */
  #isConsistent(): boolean {
    return (
      !this.#awaitingDirty && this.engine.isComplete && this.receivedSequence >= this.engine.targetSequence
    );
  }

  /** All of the volume is named, because what the replica lacks is not known: much of it may be there already. */
  #mayBeEqual(): boolean {
    const kind = this.#beginning?.kind;
    return kind === 'compare' || (kind === 'recall' && this.engine.remainingBytes === this.sizeBytes);
  }

  /** Takes the steps that have become possible. */
  #react(): void {
    if (!this.#link || this.#state === 'failed') return;
    if (this.#state === 'initial-sync' || this.#state === 'resync') {
      if (this.engine.isComplete && !this.#awaitingDirty) this.#enter('allRead');
      else this.#readOn();
    } else if (!this.engine.isComplete) {
      this.engine.beginRound();
      this.meter.start(performance.now());
      this.#ledger.unsettle();
      this.#enter('moreToRead');
      this.#readOn();
    }
    if (this.#state === 'converging' && this.#isConsistent()) this.#content.requestCommit(true);
  }

  #readOn(): void {
    if (this.engine.isStuck && !this.#rereads.isSet) {
      this.lastError = whatIsStuck(this.engine.remainingBytes, this.engine.firstDeferredOffset);
      this.#options.logger.warn({ volume: this.volumeName }, this.lastError);
      this.#rereads.start();
    }
    this.#link?.wake(this);
  }

  #commitBegins(): void {
    const settles = this.#state === 'converging' && this.#isConsistent();
    this.#ledger.begin({ sequence: this.receivedSequence, settles });
  }

  #committed(): void {
    this.history.noteLag(this);
    const cover = this.#ledger.end();
    if (!cover) {
      this.#content.requestCommit();
      return;
    }
    if (cover.settles && this.#link && this.#isConsistent()) {
      this.wasProtected = true;
      this.#heal.reset();
      this.#rereads.reset();
      this.#ackedSequence = cover.sequence;
      this.memory.reached(cover.sequence);
      this.#enter('settled', null);
    } else if (this.#state === 'protected' && this.#link && cover.sequence > this.#ackedSequence) {
      this.#ackedSequence = cover.sequence;
      this.memory.reached(cover.sequence);
      this.#link.tell(this);
    }
    if (this.#ending) this.#finish();
    else this.#react();
  }

  /** The agent is gone in order: once all is durable, the replica is what the volume was. */
  #finish(): void {
    if (!this.#content.isDurable) {
      this.#content.requestCommit(true);
      return;
    }
    this.#ending = false;
    this.#ackedSequence = this.#received;
    this.wasProtected = true;
    this.isFinished = true;
    if (this.#state !== 'protected') {
      if (this.#state !== 'converging') this.#enter('allRead');
      this.#enter('settled', null);
    }
    this.#enter('agentEnded', null);
    this.#options.onFinished?.();
  }

  #storeFailed(error: unknown): void {
    this.#ending = false;
    this.#ledger.forgetCover();
    this.#options.logger.error({ volume: this.volumeName, err: error }, 'the replica cannot be stored');
    this.#enter('storeFailed', errorMessage(error));
    if (this.#link) this.#heal.start();
  }

  async #tryHeal(): Promise<void> {
    try {
      await this.prepare(this.sizeBytes);
    } catch {
      if (this.#link) this.#heal.start();
      return;
    }
    if (!this.#link || this.#state !== 'failed') return;
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
