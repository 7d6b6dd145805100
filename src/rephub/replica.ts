// One volume's replica over all connections of its agent: its state, what it still lacks, what is durable, and what may
// be acknowledged. It must never acknowledge a change before the commit that covers it, nor call itself protected
// while any range is unread, nor promise to resume from a position that it did not reach.
import { assert } from '../base/assert.ts';
import { BlockError, errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { formatBytes } from '../base/size.ts';
import type { Mutation } from '../blockdev/mutation.ts';
import type { VolumeState } from '../control/status.ts';
import type { DiskRange } from '../repwire/messages.ts';
import type { HubTuning } from './hub-tuning.ts';
import { isSyncing, nextState, type ReplicaEvent } from './replica-states.ts';
import type { ReplicaStore } from './replica-store.ts';
import { RetryTimer } from './retry-timer.ts';
import { StoreLane } from './store-lane.ts';
import { SyncEngine } from './sync-engine.ts';
import { SyncMeter } from './sync-meter.ts';
import type { SyncRead } from './sync-read.ts';
import { splitZeroRuns } from './zero-runs.ts';

/** One life of an agent: what it keeps in memory is valid as long as both stay. */
export interface AgentIdentity {
  /** Hexadecimal. */
  readonly id: string;
  readonly epoch: bigint;
}

/** The connection, as a replica sees it. */
export interface ReplicaLink {
  /** Null without HELLO: there are no sequences, no acks, no resuming. */
  readonly agent: AgentIdentity | null;
  /** The newest entry of the agent's stream that was taken off the connection. */
  readonly receivedSequence: number;
  /** The agent's clock minus this one, microseconds; null while unknown. */
  readonly clockOffsetUs: number | null;
  /** State, acknowledged sequence or progress changed. */
  tell(replica: Replica): void;
  /** There may be something to read. */
  wake(replica: Replica): void;
}

export interface ReplicaOptions {
  readonly key: string;
  readonly volumeName: string;
  /** What its image has at the start, bytes; 0 when that is not known yet. */
  readonly sizeBytes?: number | undefined;
  /** @throws OperationError */
  readonly openStore: (sizeBytes: number) => Promise<ReplicaStore>;
  readonly tuning: HubTuning;
  readonly logger: Logger;
  /** The replica became complete and its agent shut down. */
  readonly onFinished?: () => void;
}

/** What a commit that is under way stands for. */
interface CommitCover {
  readonly sequence: number;
  /** When it is durable, everything that was to be read is, and is consistent. */
  readonly settles: boolean;
}

const FLUSH: Mutation = { kind: 'flush' };

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
  readonly #options: ReplicaOptions;
  readonly #heal: RetryTimer;
  readonly #rereads: RetryTimer;
  #state: VolumeState = 'unprotected';
  #engine: SyncEngine;
  #lane: StoreLane | undefined;
  #link: ReplicaLink | undefined;
  /** With HELLO, until the agent has said what the replica lacks: nothing may be read, resumed or trusted. */
  #awaitingDirty = false;
  /** The agent that the replica and its unread ranges are relative to, and up to where its stream was taken in. */
  #agent: AgentIdentity | null = null;
  #received = 0;
  #ackedSequence = 0;
  #cover: CommitCover | undefined;
  #oldestUs = 0;
  #committingUs = 0;
  #ending = false;
  #closed = false;
  #opening: Promise<void> = Promise.resolve();

  constructor(options: ReplicaOptions) {
    this.key = options.key;
    this.volumeName = options.volumeName;
    this.#options = options;
    this.#engine = new SyncEngine(options.sizeBytes ?? 0, options.tuning.sync);
    const { retryFirstMs, retryLongestMs } = options.tuning;
    this.#heal = new RetryTimer(retryFirstMs, retryLongestMs, () => void this.#tryHeal());
    this.#rereads = new RetryTimer(retryFirstMs, retryLongestMs, () => {
      this.#engine.retryDeferred();
      this.#link?.wake(this);
    });
  }

  get state(): VolumeState {
    return this.#state;
  }

  get sizeBytes(): number {
    return this.#engine.sizeBytes;
  }

  get isAttached(): boolean {
    return this.#link !== undefined;
  }

  get engine(): SyncEngine {
    return this.#engine;
  }

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
    return this.#committingUs || this.#oldestUs;
  }

  get doubtfulBytes(): number {
    return this.#lane?.doubtfulBytes ?? 0;
  }

  /**
   * Opens the replica's store for a volume of `sizeBytes` unless it is open.
   * @throws OperationError, also kept as `lastError`
   */
  prepare(sizeBytes: number): Promise<void> {
    const opening = this.#opening.then(() => this.#open(sizeBytes));
    this.#opening = opening.catch(() => undefined);
    return opening;
  }

  /** The volume can't be replicated, for a reason that `prepare` doesn't know of. */
  refuse(reason: string): void {
    assert(!this.#link, 'a replica at work is not refused');
    this.#ending = false;
    this.#enter('storeFailed', reason);
  }

  /**
   * A connection begins to replicate; `prepare` has succeeded.
   * @returns the sequence up to which the replica holds itself responsible, or null: it starts from nothing
   */
  attach(link: ReplicaLink, vmName: string): number | null {
    assert(!this.#link && this.#lane?.isOpen, 'attach needs an open replica without a connection');
    const resumes = link.agent !== null && sameAgent(link.agent, this.#agent);
    // The commit that the last agent's goodbye waits for is still under way: the goodbye comes to nothing.
    if (this.#ending) this.#enter('linkLost');
    // That commit settles and acknowledges nothing of what comes now.
    this.#cover = undefined;
    this.#link = link;
    this.#agent = link.agent;
    this.#awaitingDirty = link.agent !== null;
    this.#ending = false;
    this.isFinished = false;
    this.vmName = vmName;
    this.meter.start(performance.now());
    if (resumes) {
      this.#engine.beginRound();
      this.#enter('startResume', null);
    } else {
      this.#engine.restart();
      this.#received = 0;
      this.#ackedSequence = 0;
      this.#oldestUs = 0;
      this.#committingUs = 0;
      this.#enter('startFull', null);
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
    const isWhole = this.#isConsistent() && this.#state !== 'failed';
    this.#received = this.receivedSequence;
    // The agent never said what the replica lacks, and nothing of its stream was taken in: there is nothing to resume.
    if (this.#awaitingDirty && this.#received === 0) this.#agent = null;
    this.#link = undefined;
    this.#awaitingDirty = false;
    this.#engine.dropReads();
    this.#heal.stop();
    this.#rereads.stop();
    if (graceful && isWhole) {
      this.#ending = true;
      this.#lane?.requestCommit(true);
      return;
    }
    const why = graceful ? 'the agent shut down before the replica was complete' : reason;
    this.#enter('linkLost', this.#state === 'failed' ? this.lastError : why);
    this.#lane?.requestCommit(true);
  }

  /** The stream's entry writes. Data is lent until the `apply` that follows was answered. */
  write(offset: number, data: Buffer, timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    if (data.length > 0) this.#change({ kind: 'write', offset, data, fua: false }, offset, data.length);
  }

  /** The stream's entry makes the range zero. */
  zero(offset: number, length: number, trim: boolean, timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    if (length === 0) return;
    const change: Mutation = trim
      ? { kind: 'trim', offset, length, fua: false }
      : { kind: 'writeZeroes', offset, length, fua: false, mayTrim: true };
    this.#change(change, offset, length);
  }

  /** The stream's entry is the guest's flush. */
  flush(timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    this.#lane?.add(FLUSH, 0, 0);
  }

  /** The stream's entry is a change that failed at the agent: what is there now has to be looked at. */
  failedChange(offset: number, length: number, timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    this.#engine.markUnread(offset, length);
  }

  /** Ranges that changed without coming by the stream. @param isLast the entry is complete */
  dirty(extents: readonly DiskRange[], isLast: boolean, timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    for (const extent of extents) this.#engine.markUnread(extent.offset, extent.length);
    if (isLast) this.#awaitingDirty = false;
  }

  /** Whether the agent still has to say what the replica lacks: nothing else of the stream may come before. */
  get awaitsDirty(): boolean {
    return this.#awaitingDirty;
  }

  /** Takes the next range to ask the agent for, if there is any now. */
  takeRead(): SyncRead | undefined {
    if (!this.#link || this.#awaitingDirty || this.#state === 'failed') return undefined;
    return this.#engine.takeRead();
  }

  /**
   * The agent answered a read.
   * @param data null when all of it is zero; lent until the `apply` that follows was answered
   * @param asOf the newest sequence that the data may contain
   */
  readArrived(read: SyncRead, data: Buffer | null, asOf: number): void {
    if (read.dropped) return;
    this.meter.add(read.length, performance.now());
    this.#engine.finishRead(read, asOf);
    for (const run of read.freshRuns()) {
      if (data === null) {
        this.#storeZeroes(run.offset, run.length);
      } else {
        const from = run.offset - read.offset;
        splitZeroRuns(
          run.offset,
          data.subarray(from, from + run.length),
          (offset, piece) =>
            this.#lane?.add({ kind: 'write', offset, data: piece, fua: false }, offset, piece.length),
          (offset, length) => this.#storeZeroes(offset, length),
        );
      }
    }
  }

  /** The agent could not read. */
  readFailed(read: SyncRead): void {
    if (read.dropped) return;
    this.#engine.failRead(read);
  }

  /** Stores what came since the last call. Answers when it is stored; failures become the replica's state. */
  apply(): MaybePromise<void> {
    const stored = this.#lane?.apply();
    if (stored) return stored.then(() => this.#applied());
    this.#applied();
  }

  /** The stream went on, maybe by changes of other volumes. Called after everything taken in was applied. */
  streamAdvanced(): void {
    if (this.#state === 'converging') this.#react();
  }

  /** Acknowledges a position that the stream reached by other volumes' changes alone. */
  refreshAck(): void {
    if (this.#state !== 'protected' || !this.#lane?.isDurable) return;
    if (this.receivedSequence > this.#ackedSequence) this.#lane.requestCommit();
  }

  /** Whether the range equals the agent's disk at the stream's position, so that digests can be compared. */
  isComparable(offset: number, length: number): boolean {
    return (
      this.#state === 'protected' && this.#lane?.isIdle === true && !this.#engine.isUnread(offset, length)
    );
  }

  /** @throws BlockError when it can't be read */
  read(offset: number, target: Buffer): MaybePromise<void> {
    if (!this.#lane) throw new BlockError('ESHUTDOWN', 'the replica is not open');
    return this.#lane.read(offset, target);
  }

  /** Waits for what is in flight, makes it durable, and lets go. Idempotent. @throws what the store's close threw */
  async close(): Promise<void> {
    this.#closed = true;
    this.#heal.stop();
    this.#rereads.stop();
    await this.#opening;
    await this.#lane?.close();
  }

  async #open(sizeBytes: number): Promise<void> {
    if (this.#closed) throw new BlockError('ESHUTDOWN', 'the hub is shutting down');
    if (this.#lane?.isOpen && this.sizeBytes === sizeBytes) return;
    assert(!this.#lane?.isOpen || !this.#link, 'a replica at work keeps its size');
    try {
      // Of a lane that failed everything in doubt is unread already; of a volume with a new size everything is.
      await this.#lane?.close().catch(() => undefined);
      const store = await this.#options.openStore(sizeBytes);
      this.#opened(store, sizeBytes);
    } catch (error) {
      this.#ending = false;
      this.#enter('storeFailed', errorMessage(error));
      throw error;
    }
  }

  #opened(store: ReplicaStore, sizeBytes: number): void {
    const { sync, gatherMs, syncGatherMs } = this.#options.tuning;
    if (sizeBytes !== this.sizeBytes) {
      this.#engine = new SyncEngine(sizeBytes, sync);
      this.#agent = null;
    }
    const lane = new StoreLane(store, {
      sizeBytes,
      chunkBytes: sync.chunkBytes,
      gatherMs: () => (isSyncing(this.#state) ? syncGatherMs : gatherMs),
      events: {
        commitBegins: () => this.#commitBegins(),
        committed: () => this.#committed(),
        failed: (error) => this.#storeFailed(lane, error),
      },
    });
    this.#lane = lane;
  }

  #change(mutation: Mutation, offset: number, length: number): void {
    const lane = this.#lane;
    if (lane?.isOpen) {
      this.#engine.mutated(offset, length);
      lane.add(mutation, offset, length);
    } else {
      this.#engine.markUnread(offset, length);
    }
  }

  #storeZeroes(offset: number, length: number): void {
    this.#lane?.add({ kind: 'writeZeroes', offset, length, fua: false, mayTrim: true }, offset, length);
  }

  #applied(): void {
    this.#react();
    this.#lane?.requestCommit();
  }

  /** Nothing is unread, and the stream has passed all that was read. */
  #isConsistent(): boolean {
    return (
      !this.#awaitingDirty && this.#engine.isComplete && this.receivedSequence >= this.#engine.targetSequence
    );
  }

  /** Takes the steps that have become possible. */
  #react(): void {
    if (!this.#link || this.#state === 'failed') return;
    if (this.#state === 'initial-sync' || this.#state === 'resync') {
      if (this.#engine.isComplete && !this.#awaitingDirty) this.#enter('allRead');
      else this.#readOn();
    } else if (!this.#engine.isComplete) {
      this.#engine.beginRound();
      this.meter.start(performance.now());
      // A commit under way was to settle the round before.
      if (this.#cover) this.#cover = { sequence: this.#cover.sequence, settles: false };
      this.#enter('moreToRead');
      this.#readOn();
    }
    if (this.#state === 'converging' && this.#isConsistent()) this.#lane?.requestCommit(true);
  }

  #readOn(): void {
    if (this.#engine.isStuck && !this.#rereads.isSet) {
      const bytes = formatBytes(this.#engine.remainingBytes);
      this.lastError = `the agent can't read ${bytes}, the first at offset ${this.#engine.firstDeferredOffset}`;
      this.#options.logger.warn({ volume: this.volumeName }, this.lastError);
      this.#rereads.start();
    }
    this.#link?.wake(this);
  }

  #commitBegins(): void {
    this.#cover = {
      sequence: this.receivedSequence,
      settles: this.#state === 'converging' && this.#isConsistent(),
    };
    this.#committingUs = this.#oldestUs;
    this.#oldestUs = 0;
  }

  #committed(): void {
    const cover = this.#cover;
    this.#cover = undefined;
    if (!cover) {
      // It belonged to an earlier stream.
      this.#lane?.requestCommit();
      return;
    }
    this.#committingUs = 0;
    if (cover.settles && this.#link && this.#isConsistent()) {
      this.wasProtected = true;
      this.#heal.reset();
      this.#rereads.reset();
      this.#ackedSequence = cover.sequence;
      this.#enter('settled', null);
    } else if (this.#state === 'protected' && this.#link && cover.sequence > this.#ackedSequence) {
      this.#ackedSequence = cover.sequence;
      this.#link.tell(this);
    }
    if (this.#ending) this.#finish();
    else this.#react();
  }

  /** The agent is gone in order: once all is durable, the replica is what the volume was. */
  #finish(): void {
    if (!this.#lane?.isDurable) {
      this.#lane?.requestCommit(true);
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

  #storeFailed(lane: StoreLane, error: unknown): void {
    if (lane !== this.#lane) return;
    this.#ending = false;
    this.#cover = undefined;
    this.#engine.dropReads();
    lane.takeDoubtful((offset, length) => this.#engine.markUnread(offset, length));
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
    this.#engine.beginRound();
    this.meter.start(performance.now());
    this.#enter('storeHealed');
    this.#react();
  }

  /** @param error the new `lastError`; left as it is when not given */
  #enter(event: ReplicaEvent, error?: string | null): void {
    const before = this.#state;
    this.#state = nextState(before, event);
    if (error !== undefined) this.lastError = error;
    const { logger } = this.#options;
    if (this.#state !== before) {
      const fields = {
        volume: this.volumeName,
        vm: this.vmName,
        state: this.#state,
        reason: error ?? undefined,
      };
      logger.info(fields, `${before} -> ${this.#state}`);
    }
    this.#link?.tell(this);
  }
}

function sameAgent(a: AgentIdentity, b: AgentIdentity | null): boolean {
  return b !== null && a.id === b.id && a.epoch === b.epoch;
}
