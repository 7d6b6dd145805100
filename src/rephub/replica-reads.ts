// What of a replica an agent is asked for, and what becomes of the answers. It must never ask for anything while nobody
// knows what the replica lacks, nor take an answer for more than the engine says it is worth.
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { ResyncLog } from '../base/resync-log.ts';
import type { HubTuning } from './hub-tuning.ts';
import type { ReplicaContent } from './replica-content.ts';
import { whatIsStuck } from './replica-states.ts';
import { RetryTimer } from './retry-timer.ts';
import type { SyncMeter } from './sync-meter.ts';
import type { SectorRange, SyncRead } from './sync-read.ts';

export interface ReplicaReadsOptions {
  readonly content: ReplicaContent;
  readonly meter: SyncMeter;
  readonly resyncs: ResyncLog;
  readonly tuning: Pick<HubTuning, 'retryFirstMs' | 'retryLongestMs'>;
  /** Whether the agent has said what the replica lacks, and it can be stored. */
  readonly mayAsk: () => boolean;
  /** Something was stored, or is known not to be missing. */
  readonly applied: () => void;
  /** There may be something to read. */
  readonly wake: () => void;
}

export class ReplicaReads {
  readonly #options: ReplicaReadsOptions;
  readonly #again: RetryTimer;

  constructor(options: ReplicaReadsOptions) {
    this.#options = options;
    const { retryFirstMs, retryLongestMs } = options.tuning;
    this.#again = new RetryTimer(retryFirstMs, retryLongestMs, () => {
      options.content.engine.retryDeferred();
      options.wake();
    });
  }

  /** What the agent could not read is asked for again after a while. @returns what is wrong, when that is news */
  retryStuck(): string | undefined {
    const { engine } = this.#options.content;
    if (!engine.isStuck || this.#again.isSet) return undefined;
    this.#again.start();
    return whatIsStuck(engine.remainingBytes, engine.firstDeferredOffset);
  }

  /** Nothing is asked for again by itself. */
  stop(): void {
    this.#again.stop();
  }

  /** All was read. */
  reset(): void {
    this.#again.reset();
  }

  /** Takes the next range to ask the agent a digest of, if there is any now. */
  takeCompare(): SectorRange | undefined {
    const { content, mayAsk } = this.#options;
    return mayAsk() ? content.engine.takeCompare() : undefined;
  }

  /** The agent's digest of a range, at this place of the stream; everything before it was applied. Null: it is read. */
  compareArrived(range: SectorRange, digest: Buffer | null): MaybePromise<void> {
    const { content, resyncs, applied } = this.#options;
    return andThen(content.compare(range, digest), (differs) => {
      if (digest) resyncs.compared(range.length, differs);
      applied();
    });
  }

  /**
   * Takes the next range to ask the agent for, if there is any now.
   * @param isWide it may answer the start of the range alone
   */
  takeRead(isWide: boolean): SyncRead | undefined {
    const { content, mayAsk } = this.#options;
    // What an undo log has to look through first is taken in small pieces: the stream waits for each.
    return mayAsk() ? content.engine.takeRead(isWide && !content.point) : undefined;
  }

  /**
   * The agent answered a read.
   * @param data null when all of it is zero; lent until the `apply` that follows was answered
   * @param asOf the newest sequence that the data may contain
   * @param answeredBytes so much of its start was answered
   */
  readArrived(read: SyncRead, data: Buffer | null, asOf: number, answeredBytes = read.length): void {
    if (read.dropped) return;
    const { content, meter, resyncs } = this.#options;
    meter.add(answeredBytes, performance.now());
    resyncs.read(answeredBytes);
    content.storeRead(read, data, asOf, answeredBytes);
  }

  /** The agent could not read. */
  readFailed(read: SyncRead): void {
    if (!read.dropped) this.#options.content.engine.failRead(read);
  }
}
