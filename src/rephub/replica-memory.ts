// What of a replica outlives the hub: its record, kept in step with what the agent may rely on. A position is recorded
// only once it is durable in the image, and told to the agent only once it is recorded.
import { randomBytes } from 'node:crypto';
import { errorMessage, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ResyncReason } from '../base/resync-reason.ts';
import type { Claim, Recorded, StartPairing } from '../repwire/messages.ts';
import { ImageWatch } from './image-watch.ts';
import { RecordAge } from './record-age.ts';
import type { RecordPlace } from './record-file.ts';
import { furtherOf, inexactly, pointAt, type RecoveryPoint, UNKNOWN_POINT } from './recovery-point.ts';
import type { AgentIdentity } from './replica-link.ts';
import { emptyRecord, type ImageLook, type ReplicaRecord, recordedPoint } from './replica-record.ts';
import type { UndoNote } from './undo-store.ts';
import { type Conflict, isOtherImage, judge, STRANGE_IMAGE, type Verdict } from './verdict.ts';

/** From one record of a position to the next, ms. */
const RECORD_MS = 1000;

export interface ReplicaMemoryOptions {
  readonly volumeName: string;
  readonly place: RecordPlace;
  /** Looks at the image; undefined when that tells nothing. @param durably it won't look older after a power failure */
  readonly look: (durably: boolean) => Promise<ImageLook | undefined>;
  readonly recordMs?: number | undefined;
  readonly logger: Logger;
  /** A position was recorded. */
  readonly onRecorded: (position: Omit<Recorded, 'kind' | 'volumeId'>) => void;
}

/** How an attachment begins. */
export interface Beginning {
  readonly kind: 'recall' | 'compare' | 'new';
  readonly cause: ResyncReason;
  readonly reason: string;
  /** Undefined: the agent keeps nothing. */
  readonly pairing: StartPairing | undefined;
  /** The state of the volume that the image holds now, unless an undo log knows better; null: none. */
  readonly point: RecoveryPoint | null;
}

/** What to do about a conflict: the agent's disk counts and is synchronised over the replica, or the replica is kept. */
export type Resolution = 'agent' | 'replica';

interface Open {
  readonly conflict: Conflict;
  readonly agentId: string | null;
}

export class ReplicaMemory {
  /** What is known of the image beside its content. */
  readonly image = new ImageWatch();
  readonly #options: ReplicaMemoryOptions;
  #record: ReplicaRecord | 'damaged' | undefined;
  #isLoaded = false;
  #conflict: Open | undefined;
  /** The newest position that is durable, and the newest that the agent is known to have kept. */
  #reachedSequence = 0;
  #reachedUs = 0;
  #echoed = 0;
  #writing: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  readonly #age = new RecordAge(() => this.#tryUpdate((now) => now));
  #isRecording = false;
  #isClosed = false;
  #point: RecoveryPoint | null = null;
  /** What the commit under way makes durable, if that is a state of the volume. */
  #settling: RecoveryPoint | null = null;
  /** Of an image that has no record yet. */
  #undoId: string | null = null;

  constructor(options: ReplicaMemoryOptions) {
    this.#options = options;
  }

  /**
   * Looks at the image before it is opened.
   * @returns whether it was put back, is another image, or was given another record, since the hub had it: what was
   *   known of it is void
   * @throws OperationError
   */
  async prepare(): Promise<boolean> {
    const isOther = !this.#isLoaded || !this.image.isWatched ? await this.#load() : false;
    if (!this.image.isWatched) this.image.seen(await this.#options.look(false), this.#current);
    // Nothing is told of an image that others changed.
    if (this.image.isStrange) this.#point = null;
    return isOther || this.image.isExchanged;
  }

  /** Which undo log the image can't do without. */
  get undoNote(): UndoNote {
    const memory = this;
    return {
      get logId() {
        return memory.#current?.undoId ?? memory.#undoId;
      },
      keep: (logId) => memory.#keepUndo(logId),
    };
  }

  /** A commit begins whose end makes durable what the image holds: everything up to `sequence`. */
  settles(sequence: number, timeUs: number): void {
    this.#settling = pointAt(this.#current?.generation ?? 0, sequence, timeUs, false);
  }

  /** The last state of the volume that the image was seen to hold. */
  get point(): RecoveryPoint | null {
    return this.#point;
  }

  /** The image holds everything up to `sequence`, and nothing else when that is exact. @param timeUs 0: unknown */
  passed(sequence: number, timeUs: number, isExact: boolean): RecoveryPoint {
    this.#point = pointAt(this.#current?.generation ?? 0, sequence, timeUs, isExact);
    return this.#point;
  }

  /** The image holds everything up to `sequence`, or, without one, what was recorded; and parts of what came after. */
  durable(sequence: number, timeUs: number): RecoveryPoint | null {
    if (sequence > 0) return this.passed(sequence, timeUs, false);
    this.#point = inexactly(this.#current?.point);
    return this.#point;
  }

  /** The image holds no state of the volume, nor can be put back to one. */
  lost(): null {
    this.#point = null;
    return null;
  }

  /** The image holds what nobody can name. */
  strange(): RecoveryPoint {
    this.#point = UNKNOWN_POINT;
    return this.#point;
  }

  /**
   * An agent is about to begin; the image is open. Its attachment is recorded before this answers.
   * @param isDurable everything that the image holds is
   * @throws OperationError when it must not, or the image was lost after it was looked at
   */
  async begin(
    agent: AgentIdentity | null,
    vmName: string,
    sizeBytes: number,
    claim?: Claim,
    isDurable = true,
  ): Promise<Beginning> {
    this.image.expectSeen();
    const agentId = agent?.id ?? null;
    const record = this.#record;
    const image = this.image.look;
    const verdict = judge({ record, image, agentId, claim });
    if (verdict.kind === 'refuse') throw this.#refused(verdict.conflict, verdict.reason, agentId);
    this.#conflict = undefined;
    const before = record === 'damaged' ? undefined : record;
    const pairing = claim ? pairingOf(verdict, before) : 0n;
    const generation = Math.max(before?.generation ?? 0, claim?.generation ?? 0) + 1;
    this.#reachedSequence = 0;
    this.#echoed = 0;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const isReplaced = verdict.kind === 'new' && isOtherImage(before, image);
    if (isReplaced) this.#point = null;
    const point = this.#point;
    const recorded = isDurable || !point ? point : inexactly(before?.point);
    await this.#update((now) => ({
      ...emptyRecord(this.#options.volumeName),
      vmName,
      sizeBytes,
      agentId,
      pairing,
      generation,
      previousPairing: claim?.pairing ?? 0n,
      previousGeneration: claim?.generation ?? 0,
      isConfirmed: false,
      isComplete: before?.isComplete === true && verdict.kind === 'recall',
      verifiedAtMs: verdict.kind === 'new' ? 0 : (before?.verifiedAtMs ?? 0),
      point: recorded,
      undoId: now?.undoId ?? this.#undoId,
    }));
    this.image.watch();
    const recalls = verdict.kind === 'recall';
    return {
      kind: verdict.kind,
      cause: verdict.cause,
      reason: verdict.reason,
      // Not as before: the store may have failed since.
      point: this.#point,
      pairing: claim ? { pairing, generation, recalls } : undefined,
    };
  }

  /** The image is about to change. @returns what must have ended before it does, if anything; never rejects */
  beforeChange(): Promise<void> | undefined {
    const record = this.#current;
    if (!record || !this.image.isWatched || this.#isClosed) return undefined;
    return this.#age.beforeChange(record.writtenAtMs);
  }

  /** The image is open again, and the attachment of before goes on. */
  regained(): void {
    if (!this.#current) return;
    this.image.watch();
    // The last one may be so old by now that what is written from here on would seem to be someone else's.
    void this.#tryUpdate((now) => now);
  }

  /** The agent has kept the attachment: it answered, on this connection. */
  confirmed(): void {
    const record = this.#current;
    if (!record) return;
    if (!record.isConfirmed) void this.#tryUpdate((now) => ({ ...now, isConfirmed: true }));
    // What an earlier connection was told may have been lost with it, or the echo: no other position would follow.
    if (record.sequence > this.#echoed) this.#tell(record);
  }

  /** When a verification of all of it had ended, Unix milliseconds; 0: never. */
  get verifiedAtMs(): number {
    return this.#current?.verifiedAtMs ?? 0;
  }

  /** A verification of all of it has ended, and nothing is left to be repaired. */
  verified(): void {
    const verifiedAtMs = Date.now();
    if (this.#current) void this.#tryUpdate((now) => ({ ...now, verifiedAtMs }));
  }

  /**
   * Everything up to `sequence` of the present attachment is durable, and the replica complete there.
   * @param timeUs when the newest of it was made; 0: unknown
   */
  reached(sequence: number, timeUs: number): void {
    this.#reachedSequence = sequence;
    this.#reachedUs = timeUs;
    if (this.#current?.pairing === 0n && !this.#current.point) {
      // Of an agent that keeps nothing no position is recorded, but that there is something to go back to.
      const point = this.#reachedPoint(this.#current.generation);
      void this.#tryUpdate((now) => ({ ...now, point }));
    }
    this.#recordSoon();
  }

  /** The agent has kept what was recorded. */
  echoed({ pairing, generation, sequence }: Recorded): void {
    const record = this.#current;
    if (!record || record.pairing !== pairing || record.generation !== generation) return;
    this.#echoed = Math.max(this.#echoed, Math.min(sequence, record.sequence));
    this.#recordSoon();
  }

  /** The connection is over: an echo that has not come will not come. */
  detached(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /**
   * An operator chose who is right.
   * @param agentId who may begin; the one that was refused last unless given
   * @throws OperationError when there is nothing to choose
   */
  async resolve(use: Resolution, agentId: string | undefined): Promise<string> {
    await this.prepare();
    const { volumeName } = this.#options;
    const open = this.#conflict;
    const isHeld = this.#current?.isHeld ?? false;
    if (!open && !isHeld) {
      throw new OperationError(`volume ${volumeName} has no conflict to resolve`, {
        hint: '`repagent status` shows conflicts; an agent that was refused must have reported since the start',
      });
    }
    const chosen = agentId ?? open?.agentId ?? this.#current?.agentId ?? null;
    const base = this.#current ?? emptyRecord(volumeName);
    // An image that others changed is no state of the volume any more, whoever is chosen.
    const isStrange = this.image.isStrange || (open !== undefined && STRANGE_IMAGE.has(open.conflict));
    if (isStrange) this.#point = null;
    const point = isStrange ? null : base.point;
    await this.#update(() =>
      use === 'replica'
        ? { ...base, point, isHeld: true }
        : { ...base, point, agentId: chosen, pairing: 0n, isClean: false, isChosen: true, isHeld: false },
    );
    if (use === 'agent') this.#conflict = undefined;
    const done =
      use === 'replica'
        ? 'the replica is kept as it is; agents are refused'
        : `the disk of agent ${chosen ?? 'without an id'} counts; the replica will be compared and made equal`;
    this.#options.logger.warn({ volume: volumeName, use, agentId: chosen }, done);
    return done;
  }

  /**
   * The image is closed: what it looks like now is what it must look like at the next start. Idempotent.
   * @param isConsistent it holds what was told last to `passed`
   */
  async close(isImageWhole: boolean, isConsistent = false): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#timer);
    // A replica that nobody attached to stays as it was recorded.
    if (!this.#current || !this.image.isWatched) return;
    const isExact = isImageWhole && isConsistent;
    await this.#update((now) => ({
      ...now!,
      point: isExact ? this.#point : inexactly(now!.point),
      isClean: isImageWhole,
    }));
  }

  /** While the hub does not have the image, a recovery may have changed its record. @returns whether it has */
  async #load(): Promise<boolean> {
    await this.#writing;
    const before = this.#current;
    this.#record = await this.#options.place.load();
    const now = this.#current;
    const isSame = before?.writtenAtMs === now?.writtenAtMs && before?.undoId === now?.undoId;
    const isOther = this.#isLoaded && !isSame;
    if (!this.#isLoaded || isOther) this.#point = recordedPoint(now);
    this.#isLoaded = true;
    return isOther;
  }

  /** @throws OperationError */
  async #keepUndo(logId: string | null): Promise<void> {
    // What was overwritten is a state of the volume again: that one, whatever there was before.
    const point = logId === null ? this.#settling : undefined;
    const change = (now?: ReplicaRecord) => ({ ...now!, ...(point && { point }), undoId: logId });
    // What the image looks like before it was judged is no news to be kept: it may be others' doing.
    if (this.#current) await this.#update(change, this.image.isWatched);
    // Of a store that failed before its log was dropped nobody else hears what it holds.
    if (point && !this.image.isWatched) this.#point = point;
    // Not before that is recorded, which is what `recover` goes by.
    this.#undoId = this.#current ? null : logId;
  }

  get #current(): ReplicaRecord | undefined {
    return this.#record === 'damaged' ? undefined : this.#record;
  }

  #refused(conflict: Conflict, reason: string, agentId: string | null): OperationError {
    const { volumeName, logger } = this.#options;
    if (this.#conflict?.conflict !== conflict)
      logger.error({ volume: volumeName, conflict, agentId }, reason);
    this.#conflict = { conflict, agentId };
    return new OperationError(`volume ${volumeName} is refused: ${reason}`, {
      hint: `repagent resolve ${volumeName} --use agent|replica`,
    });
  }

  /** @param leastMs after one that failed */
  #recordSoon(leastMs = 0): void {
    const record = this.#current;
    if (!record || this.#timer || this.#isRecording || this.#isClosed || record.pairing === 0n) return;
    // One position at a time: the agent is never more than one behind.
    if (record.sequence > this.#echoed || this.#reachedSequence <= record.sequence) return;
    const sinceMs = Date.now() - record.writtenAtMs;
    const everyMs = this.#options.recordMs ?? RECORD_MS;
    const waitMs = record.sequence === 0 ? 0 : Math.min(everyMs, Math.max(0, everyMs - sinceMs));
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        void this.#recordReached();
      },
      Math.max(leastMs, waitMs),
    );
  }

  async #recordReached(): Promise<void> {
    const sequence = this.#reachedSequence;
    const generation = this.#current?.generation;
    // Had the hub been killed after this, what came later would be there too, in part.
    const point = this.#reachedPoint(generation ?? 0);
    this.#isRecording = true;
    const isKept = await this.#tryUpdate((now) =>
      now.generation === generation
        ? {
            ...now,
            isConfirmed: true,
            isComplete: true,
            sequence,
            previousSequence: now.sequence,
            // What a log was dropped for meanwhile is durable too.
            point: furtherOf(now.point, point),
          }
        : now,
    );
    this.#isRecording = false;
    const record = this.#current;
    if (isKept && record?.generation === generation && record?.sequence === sequence) this.#tell(record);
    // Guests may write nothing more: the next position may not come.
    else if (!isKept) this.#recordSoon(this.#options.recordMs ?? RECORD_MS);
  }

  #tell({ pairing, generation, sequence }: ReplicaRecord): void {
    this.#options.onRecorded({ pairing, generation, sequence });
  }

  #reachedPoint(generation: number): RecoveryPoint {
    return pointAt(generation, this.#reachedSequence, this.#reachedUs, false);
  }

  /** What can't be written now is written with whatever comes next. */
  async #tryUpdate(change: (record: ReplicaRecord) => ReplicaRecord): Promise<boolean> {
    let isOurs = false;
    try {
      await this.#update((now) => {
        // While the hub does not have the image, the record may be that of a recovery.
        isOurs = this.image.isWatched;
        return isOurs ? change(now!) : undefined;
      });
      return isOurs;
    } catch (error) {
      this.#options.logger.error(
        { volume: this.#options.volumeName, reason: errorMessage(error) },
        'the record of the replica could not be written',
      );
      return false;
    }
  }

  /** One after the other, each from what the one before left. @param looks at the image @throws OperationError */
  #update(
    change: (record: ReplicaRecord | undefined) => ReplicaRecord | undefined,
    looks = true,
  ): Promise<void> {
    const updating = this.#writing.then(async () => {
      const record = change(this.#current);
      if (!record) return;
      const image = looks ? ((await this.#options.look(true)) ?? record.image) : record.image;
      const written = { ...record, image, writtenAtMs: looks ? Date.now() : record.writtenAtMs };
      await this.#options.place.save(written);
      this.#record = written;
    });
    this.#writing = updating.catch(() => undefined);
    return updating;
  }
}

function pairingOf(verdict: Exclude<Verdict, { kind: 'refuse' }>, before: ReplicaRecord | undefined): bigint {
  if (verdict.kind === 'recall') return before!.pairing;
  if (verdict.kind === 'compare' && verdict.pairing !== 0n) return verdict.pairing;
  return randomBytes(8).readBigUInt64LE() || 1n;
}
