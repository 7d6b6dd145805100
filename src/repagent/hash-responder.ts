// Answers the hub's questions for digests. A digest travels inside the stream, at the one place where it's true: after
// every change that it covers and before every change that it doesn't. When that can't be had, the answer is "busy".
import { sharedPool } from '../base/buffer-pool.ts';
import { KiB } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import { HASH_STATUS } from '../repwire/constants.ts';
import { rangeDigest } from '../repwire/digest.ts';
import * as encode from '../repwire/encode.ts';
import type { HashRequest } from '../repwire/messages.ts';
import type { MirrorStream } from './mirror-stream.ts';
import type { ProtectedVolume } from './protected-volume.ts';
import { checkedRange } from './remote-range.ts';
import type { RequestWindow } from './request-window.ts';
import type { PaceTurn, ResyncPace } from './resync-pace.ts';
import { TurnQueue } from './turn-queue.ts';

/** Largest range of one digest: it's computed in one go, while guests wait. */
const MAX_HASH_BYTES = 256 * KiB;

const NO_DIGEST = Buffer.alloc(0);

export interface HashResponderOptions {
  readonly stream: MirrorStream;
  readonly window: RequestWindow;
  readonly pace: ResyncPace;
  readonly volumeOf: (id: bigint) => ProtectedVolume | undefined;
  readonly onFault: (error: unknown) => void;
  readonly logger: Logger;
}

interface Job {
  readonly requestId: number;
  readonly volume: ProtectedVolume;
  readonly offset: number;
  readonly length: number;
}

export class HashResponder {
  readonly #options: HashResponderOptions;
  readonly #jobs: TurnQueue<Job>;
  #stopped = false;

  constructor(options: HashResponderOptions) {
    this.#options = options;
    this.#jobs = new TurnQueue<Job>({
      atOnce: 4,
      pace: options.pace,
      bytesOf: (job) => job.length,
      run: (job, turn) => this.#digest(job, turn),
      onFault: options.onFault,
    });
  }

  /** @returns false when the volume is not known: there is no stream to answer in */
  request(request: HashRequest): boolean {
    const { requestId, volumeId } = request;
    const volume = this.#options.volumeOf(volumeId);
    if (!volume) return false;
    this.#options.window.take(0);
    const range = checkedRange(request, volume.sizeBytes, MAX_HASH_BYTES);
    if (range && !volume.isClosed) this.#jobs.push({ requestId, volume, ...range });
    else this.#answer(volume, requestId, HASH_STATUS.FAILED, NO_DIGEST);
    return true;
  }

  /** The connection is gone: what is under way has no answer. */
  stop(): void {
    this.#stopped = true;
    this.#jobs.drop();
  }

  async #digest(job: Job, turn: PaceTurn): Promise<void> {
    const { volume, requestId, offset, length } = job;
    await volume.lock.ended(offset, length);
    if (this.#stopped) return;
    const watch = volume.watches.begin(offset, length);
    const slab = sharedPool.acquire(length);
    try {
      // Something else may have begun while this waited; then the range isn't at rest.
      let status: number = volume.lock.overlaps(offset, length) ? HASH_STATUS.BUSY : HASH_STATUS.OK;
      const data = slab.bytes.subarray(0, length);
      if (status === HASH_STATUS.OK) status = await this.#readInto(job, data, turn);
      if (this.#stopped) return;
      if (status === HASH_STATUS.OK && (watch.touched || volume.mode !== 'on')) status = HASH_STATUS.BUSY;
      if (status === HASH_STATUS.OK) volume.resyncs.compared(length);
      const digest = status === HASH_STATUS.OK ? turn.hold(() => rangeDigest(data)) : NO_DIGEST;
      this.#answer(volume, requestId, status, digest);
    } finally {
      slab.release();
      volume.watches.end(watch);
    }
  }

  async #readInto(job: Job, data: Buffer, turn: PaceTurn): Promise<number> {
    const { volume, offset, length } = job;
    try {
      await turn.use(length, () => volume.below.read(offset, data));
      return HASH_STATUS.OK;
    } catch (error) {
      this.#options.logger.warn(
        { err: error, volume: volume.name, offset, length },
        'read for a digest failed',
      );
      return HASH_STATUS.FAILED;
    }
  }

  #answer(volume: ProtectedVolume, requestId: number, status: number, digest: Buffer): void {
    const { stream, window } = this.#options;
    const frame = encode.encodeHashResponse(requestId, volume.wireId, status, stream.sequence, digest);
    stream.frame(volume, frame, () => window.give(0));
  }
}
