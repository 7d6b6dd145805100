// Serves the hub's reads and writes, below the mirror, answered as they finish. A read's answer says how far the stream
// must have been applied before its data is consistent: that number must never be too low.
import { AssertionError } from '../base/assert.ts';
import { type RetainedBytes, retainBytes, type Slab, sharedPool } from '../base/buffer-pool.ts';
import { KiB, MiB, SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import { LEAST_WIDE_ANSWER_BYTES, MAX_REMOTE_IO_BYTES, MAX_WIDE_READ_BYTES } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import type { RemoteIoRequest } from '../repwire/messages.ts';
import type { MirrorStream } from './mirror-stream.ts';
import type { ProtectedVolume } from './protected-volume.ts';
import { checkedRange } from './remote-range.ts';
import type { RequestWindow } from './request-window.ts';
import type { PaceTurn, ResyncPace } from './resync-pace.ts';
import type { Answer } from './stream-sender.ts';
import { TurnQueue } from './turn-queue.ts';

const AT_ONCE = 16;

/** What a wide read is answered with at most where there is data: known to begin soon, or not known. */
const KNOWN_DATA_BYTES = LEAST_WIDE_ANSWER_BYTES;
const UNKNOWN_BYTES = 2 * MiB;
const ZEROES = Buffer.alloc(64 * KiB);

export interface RemoteIoStats {
  remoteReads: number;
  remoteReadBytes: number;
  remoteWrites: number;
  remoteWriteBytes: number;
  remoteRefusals: number;
}

export interface RemoteIoOptions {
  readonly stream: MirrorStream;
  readonly window: RequestWindow;
  /** A read may be of more than an answer can carry. */
  readonly wideReads?: boolean;
  readonly pace: ResyncPace;
  readonly volumeOf: (id: bigint) => ProtectedVolume | undefined;
  readonly answer: (answer: Answer) => void;
  readonly onFault: (error: unknown) => void;
  readonly stats: RemoteIoStats;
  readonly logger: Logger;
}

interface Job {
  readonly requestId: number;
  readonly volumeId: bigint;
  readonly volume: ProtectedVolume;
  readonly offset: number;
  readonly length: number;
  /** It takes so much memory at most, bytes. */
  readonly memoryBytes: number;
  /** What is to be written; undefined for a read. */
  readonly data: RetainedBytes | undefined;
}

export class RemoteIo {
  readonly #options: RemoteIoOptions;
  readonly #jobs: TurnQueue<Job>;
  #stopped = false;
  #hasRefused = false;

  constructor(options: RemoteIoOptions) {
    this.#options = options;
    this.#jobs = new TurnQueue<Job>({
      atOnce: AT_ONCE,
      pace: options.pace,
      bytesOf: (job) => job.memoryBytes,
      run: (job, turn) => (job.data ? this.#write(job, job.data, turn) : this.#read(job, turn)),
      onFault: options.onFault,
    });
  }

  /** Takes a request in; its data is lent for the call. */
  request(request: RemoteIoRequest): void {
    const { requestId, volumeId, isRead, data } = request;
    const volume = this.#options.volumeOf(volumeId);
    const maxBytes = isRead && this.#options.wideReads ? MAX_WIDE_READ_BYTES : MAX_REMOTE_IO_BYTES;
    const range = volume && checkedRange(request, volume.sizeBytes, maxBytes);
    const length = range?.length ?? 0;
    const memoryBytes = length > MAX_REMOTE_IO_BYTES ? UNKNOWN_BYTES : length;
    this.#options.window.take(memoryBytes);
    const fits = range && (isRead || (data.length === range.length && !volume.below.limits.readOnly));
    if (!fits || volume.isClosed) {
      this.#refuse(request, memoryBytes);
      return;
    }
    this.#jobs.push({
      requestId,
      volumeId,
      volume,
      ...range,
      memoryBytes,
      data: isRead ? undefined : retainBytes(data),
    });
  }

  /** The connection is gone: what is under way has no answer. */
  stop(): void {
    this.#stopped = true;
    for (const job of this.#jobs.drop()) job.data?.release();
  }

  async #read(job: Job, turn: PaceTurn): Promise<void> {
    const { volume, offset } = job;
    const followed = volume.untilFollowed();
    if (followed) {
      // What waits for the stream takes nobody's turn at the disk.
      turn.end();
      await followed;
      if (!this.#stopped) this.#jobs.push(job);
      return;
    }
    const part = await this.#partOf(job);
    if (part.isHole) {
      turn.end();
      await settleRange(volume, offset, part.length);
      if (!this.#stopped) this.#sendZeroes(job, part.length);
      return;
    }
    if (this.#stopped) return;
    const slab = sharedPool.acquire(part.length);
    try {
      const data = slab.bytes.subarray(0, part.length);
      const isRead = await this.#readInto(job, data, turn);
      turn.end();
      if (isRead) await settleRange(volume, offset, part.length);
      if (this.#stopped) return;
      if (isRead) this.#sendData(job, data, slab);
      else this.#answer(job, -1);
    } finally {
      slab.release();
    }
  }

  /** What of a read is answered: all of it, or of a wide one its start. */
  async #partOf({
    volume,
    offset,
    length,
  }: Job): Promise<{ readonly isHole: boolean; readonly length: number }> {
    const isWide = length > MAX_REMOTE_IO_BYTES;
    const holeBytes = this.#options.stream.extensions ? await leadingHole(volume, offset, length) : undefined;
    const least = isWide ? LEAST_WIDE_ANSWER_BYTES : length;
    if (holeBytes !== undefined && holeBytes >= least) return { isHole: true, length: holeBytes };
    if (!isWide) return { isHole: false, length };
    return { isHole: false, length: holeBytes === undefined ? UNKNOWN_BYTES : KNOWN_DATA_BYTES };
  }

  async #readInto(job: Job, data: Buffer, turn: PaceTurn): Promise<boolean> {
    const { volume, offset } = job;
    try {
      await turn.use(data.length, () => volume.below.read(offset, data));
      return true;
    } catch (error) {
      this.#logFailure(job, 'read', error);
      return false;
    }
  }

  async #write(job: Job, data: RetainedBytes, turn: PaceTurn): Promise<void> {
    const { volume, offset } = job;
    let status = 0;
    try {
      await turn.use(data.bytes.length, () => volume.writeRemotely(offset, data.bytes));
      this.#options.stats.remoteWrites += 1;
      this.#options.stats.remoteWriteBytes += job.length;
    } catch (error) {
      this.#logFailure(job, 'write', error);
      status = -1;
    } finally {
      data.release();
    }
    if (!this.#stopped) this.#answer(job, status);
  }

  #sendData(job: Job, data: Buffer, slab: Slab): void {
    if (this.#options.stream.extensions && isAllZero(data)) {
      this.#sendZeroes(job, data.length);
      return;
    }
    this.#countRead(job, data.length);
    slab.retain();
    this.#answer(job, 0, { bytes: data.length, data, slab });
  }

  #sendZeroes(job: Job, bytes: number): void {
    this.#countRead(job, bytes);
    this.#answer(job, 0, { bytes, data: undefined, slab: undefined });
  }

  #countRead(job: Job, bytes: number): void {
    const { stats } = this.#options;
    stats.remoteReads += 1;
    stats.remoteReadBytes += bytes;
    job.volume.resyncs.read(bytes);
  }

  /** @param read what was read: so many bytes from the start of the range, zero without data */
  #answer(
    job: Job,
    status: number,
    read?: { readonly bytes: number; readonly data: Buffer | undefined; readonly slab: Slab | undefined },
  ): void {
    const { stream, window, answer } = this.#options;
    const sequence = stream.extensions ? stream.sequence : 0;
    const { data, slab } = read ?? {};
    const head = encode.encodeRemoteIoResponse(job.requestId, job.volumeId, status, data?.length ?? 0, {
      sequence,
      allZero: read !== undefined && data === undefined,
      answeredBytes: read && read.bytes < job.length ? read.bytes : 0,
    });
    answer({
      head,
      data,
      over: () => {
        slab?.release();
        window.give(job.memoryBytes);
      },
    });
  }

  #refuse(request: RemoteIoRequest, memoryBytes: number): void {
    const { window, answer, stats, logger } = this.#options;
    const { requestId, volumeId, offsetSectors, sizeSectors, isRead } = request;
    stats.remoteRefusals += 1;
    // One line tells that the hub is wrong; a thousand would not tell more.
    const level = this.#hasRefused ? 'debug' : 'warn';
    this.#hasRefused = true;
    logger[level](
      { requestId, volumeId: String(volumeId), offsetSectors: String(offsetSectors), sizeSectors, isRead },
      'refused a remote request of the hub: unknown volume, or not a range of it',
    );
    const head = encode.encodeRemoteIoResponse(requestId, volumeId, -1, 0, { sequence: 0, allZero: false });
    answer({ head, data: undefined, over: () => window.give(memoryBytes) });
  }

  #logFailure(job: Job, what: string, error: unknown): void {
    const { offset, length, volume } = job;
    this.#options.logger.warn({ err: error, volume: volume.name, offset, length }, `remote ${what} failed`);
  }
}

/**
 * What was read of the range may hold parts of changes that are in flight. Waits until the stream brings each of them,
 * or names what they changed: from then on the stream's newest sequence covers all that was read.
 */
async function settleRange(volume: ProtectedVolume, offset: number, length: number): Promise<void> {
  await volume.lock.ended(offset, length);
  await volume.untilFollowed();
}

/**
 * Bytes from the start of the range in which there is nothing, where the disk tells that for less than a read, which would
 * fill its cache; undefined where it doesn't.
 */
async function leadingHole(
  volume: ProtectedVolume,
  offset: number,
  length: number,
): Promise<number | undefined> {
  const { below } = volume;
  if (!below.limits.cheapExtents) return undefined;
  try {
    const [first] = await below.extents(offset, length, 1);
    if (first?.zero !== true) return 0;
    return Math.floor(Math.min(first.length, length) / SECTOR_BYTES) * SECTOR_BYTES;
  } catch (error) {
    // The read will say whether the disk is well.
    if (error instanceof AssertionError) throw error;
    return undefined;
  }
}

function isAllZero(data: Buffer): boolean {
  for (let at = 0; at < data.length; at += ZEROES.length) {
    const part = data.subarray(at, at + ZEROES.length);
    if (!part.equals(ZEROES.subarray(0, part.length))) return false;
  }
  return true;
}
