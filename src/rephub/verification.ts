// Compares a replica with its volume online: the agent's digests travel in stream order, and each is compared when the
// replica stands exactly where the digest is true. A range that cannot be compared at that moment is never counted.
import { Bitmap } from '../base/bitmap.ts';
import { OperationError } from '../base/errors.ts';
import { deferred } from '../base/lifecycle.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { formatBytes, formatDuration } from '../base/size.ts';
import { TokenBucket } from '../base/token-bucket.ts';
import type { VerifyProgress, VerifyResult } from '../control/status.ts';
import { MAX_EXTENTS_PER_FRAME } from '../repwire/constants.ts';
import { rangeDigest } from '../repwire/digest.ts';
import type { DiskRange } from '../repwire/messages.ts';
import type { VerifyTuning } from './hub-tuning.ts';

/** The replica, as a verification sees it. */
export interface Comparable {
  readonly volumeName: string;
  readonly sizeBytes: number;
  readonly content: { read(offset: number, target: Buffer): MaybePromise<void> };
  isComparable(offset: number, length: number): boolean;
}

export interface VerificationOptions {
  readonly replica: Comparable;
  readonly tuning: VerifyTuning;
  /** Bytes of the volume that are read a second at most; undefined: as fast as the agent answers. */
  readonly bytesPerSecond?: number | undefined;
  /** Asks the agent for the digest of a range; the answer comes to `answered` or `busy`. */
  readonly ask: (range: DiskRange) => void;
  readonly onProgress: (progress: VerifyProgress) => void;
}

export class Verification {
  readonly #options: VerificationOptions;
  readonly #result = deferred<VerifyResult>();
  readonly #differing: Bitmap;
  /** Ranges to ask for before going on at the cursor, and ranges that were busy. */
  #next: DiskRange[] = [];
  #later: DiskRange[] = [];
  #cursor = 0;
  #asked = 0;
  #comparedBytes = 0;
  #progressAtMs = performance.now();
  readonly #pace: TokenBucket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #paceTimer: NodeJS.Timeout | undefined;
  #over = false;

  constructor(options: VerificationOptions) {
    this.#options = options;
    const { bytesPerSecond } = options;
    this.#pace =
      bytesPerSecond === undefined ? undefined : new TokenBucket(bytesPerSecond, 0, performance.now());
    this.#differing = new Bitmap(Math.ceil(options.replica.sizeBytes / options.tuning.minRangeBytes));
  }

  /** @throws OperationError when it can't be finished */
  get result(): Promise<VerifyResult> {
    return this.#result.promise;
  }

  start(): void {
    this.#askOn();
  }

  /** The range changed while the agent read it, or before its digest could be sent. */
  busy(range: DiskRange): void {
    this.#asked -= 1;
    this.#putOff(range);
    this.#askOn();
  }

  /** The agent could not read the range. */
  unreadable(range: DiskRange): void {
    this.#asked -= 1;
    this.abort(
      new OperationError(`the agent can't read ${formatBytes(range.length)} at offset ${range.offset}`),
    );
  }

  /**
   * The digest of a range arrived in stream order; the stream waits until this has answered.
   * @param digest SHA-256
   */
  answered(range: DiskRange, digest: Buffer): MaybePromise<void> {
    this.#asked -= 1;
    const { replica } = this.#options;
    if (this.#over) return undefined;
    if (!replica.isComparable(range.offset, range.length)) {
      this.#putOff(range);
      this.#askOn();
      return undefined;
    }
    const bytes = Buffer.allocUnsafe(range.length);
    let reading: MaybePromise<void>;
    try {
      reading = replica.content.read(range.offset, bytes);
    } catch (error) {
      this.#replicaUnreadable(error);
      return undefined;
    }
    if (reading instanceof Promise) {
      return reading.then(
        () => this.#compare(range, bytes, digest),
        (error: unknown) => this.#replicaUnreadable(error),
      );
    }
    this.#compare(range, bytes, digest);
  }

  abort(error: Error): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#paceTimer);
    this.#result.reject(error);
  }

  #compare(range: DiskRange, bytes: Buffer, digest: Buffer): void {
    if (this.#over) return;
    if (!rangeDigest(bytes).equals(digest)) this.#noteDifference(range);
    this.#comparedBytes += range.length;
    this.#progressAtMs = performance.now();
    this.#report();
    this.#askOn();
  }

  /** Whoever watches must not be able to disturb the stream. */
  #report(): void {
    const { replica, onProgress } = this.#options;
    try {
      onProgress({ comparedBytes: this.#comparedBytes, totalBytes: replica.sizeBytes });
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #replicaUnreadable(error: unknown): void {
    this.abort(
      new OperationError(`the replica of ${this.#options.replica.volumeName} can't be read`, {
        cause: error,
      }),
    );
  }

  #noteDifference(range: DiskRange): void {
    const unit = this.#options.tuning.minRangeBytes;
    this.#differing.set(Math.floor(range.offset / unit), Math.ceil((range.offset + range.length) / unit));
  }

  /** A smaller range is less likely to change while it is read. */
  #putOff(range: DiskRange): void {
    const { minRangeBytes } = this.#options.tuning;
    if (range.length <= minRangeBytes) {
      this.#later.push(range);
      return;
    }
    const half = Math.ceil(range.length / 2 / minRangeBytes) * minRangeBytes;
    this.#later.push({ offset: range.offset, length: half });
    if (half < range.length) {
      this.#later.push({ offset: range.offset + half, length: range.length - half });
    }
  }

  #askOn(): void {
    const { replica, tuning, ask } = this.#options;
    while (!this.#over && this.#asked < tuning.window) {
      if (this.#mustWait()) return;
      const range = this.#takeRange(replica.sizeBytes, tuning.rangeBytes);
      if (!range) break;
      this.#pace?.take(range.length);
      this.#asked += 1;
      ask(range);
    }
    if (this.#over || this.#asked > 0) return;
    if (this.#later.length > 0) this.#askLater();
    else this.#finish();
  }

  /** Whether there is something to ask for and it is not time yet. */
  #mustWait(): boolean {
    const isMore = this.#next.length > 0 || this.#cursor < this.#options.replica.sizeBytes;
    const waitMs = isMore ? (this.#pace?.waitMs(performance.now()) ?? 0) : 0;
    if (waitMs === 0) return false;
    this.#paceTimer ??= setTimeout(() => {
      this.#paceTimer = undefined;
      this.#askOn();
    }, waitMs);
    return true;
  }

  /** What differs, all of it, once the result is there; in units of the smallest range. */
  *differences(): Generator<DiskRange> {
    const { replica, tuning } = this.#options;
    for (const run of this.#differing.runs()) {
      const offset = run.start * tuning.minRangeBytes;
      const end = Math.min(run.end * tuning.minRangeBytes, replica.sizeBytes);
      yield { offset, length: end - offset };
    }
  }

  #takeRange(sizeBytes: number, rangeBytes: number): DiskRange | undefined {
    const next = this.#next.pop();
    if (next || this.#cursor >= sizeBytes) return next;
    const offset = this.#cursor;
    const length = Math.min(rangeBytes, sizeBytes - offset);
    this.#cursor += length;
    return { offset, length };
  }

  #askLater(): void {
    const { stallMs, retryMs } = this.#options.tuning;
    if (performance.now() - this.#progressAtMs > stallMs) {
      const range = this.#later[0]!;
      this.abort(
        new OperationError(
          `${formatBytes(range.length)} at offset ${range.offset} could not be compared for ${formatDuration(stallMs)}`,
          { hint: 'the range keeps changing, or the replica is being synchronised; try again later' },
        ),
      );
      return;
    }
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#next = this.#later.reverse();
      this.#later = [];
      this.#askOn();
    }, retryMs);
  }

  #finish(): void {
    this.#over = true;
    const { replica } = this.#options;
    const differing: DiskRange[] = [];
    for (const range of this.differences()) {
      if (differing.length === MAX_EXTENTS_PER_FRAME) break;
      differing.push(range);
    }
    this.#result.resolve({
      volume: replica.volumeName,
      comparedBytes: this.#comparedBytes,
      differing,
    });
  }
}
