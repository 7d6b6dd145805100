// Delays guests' changes while the queue to the hub fills, so that the volume stays protected: --on-hub-lag=throttle. The
// delay of a change is bounded, and is never waited for twice; a queue that fills all the same degrades the volume as
// without it. It must never hold a change back until something happens.
import type { MirrorQueue } from './mirror-queue.ts';

/** Of the queue, what is full when delays begin, and when they are the longest. In between they grow evenly. */
export const THROTTLE_FROM_SHARE = 0.5;
export const THROTTLE_FULL_SHARE = 0.9;

export class GuestThrottle {
  readonly maxDelayMs: number;
  readonly #queue: Pick<MirrorQueue, 'bytes' | 'limitBytes'>;
  readonly #isStreaming: () => boolean;
  #delayedChanges = 0;

  /**
   * @param maxDelayMs of one change
   * @param isStreaming whether changes of the volume go by the stream: what goes to the dirty map needs no delay
   */
  constructor(
    queue: Pick<MirrorQueue, 'bytes' | 'limitBytes'>,
    maxDelayMs: number,
    isStreaming: () => boolean,
  ) {
    this.#queue = queue;
    this.maxDelayMs = maxDelayMs;
    this.#isStreaming = isStreaming;
  }

  /** How long a change has to wait that comes now, whole milliseconds; 0 most of the time. */
  get delayMs(): number {
    const { bytes, limitBytes } = this.#queue;
    const share = bytes / limitBytes;
    if (share <= THROTTLE_FROM_SHARE || !this.#isStreaming()) return 0;
    const grown = (share - THROTTLE_FROM_SHARE) / (THROTTLE_FULL_SHARE - THROTTLE_FROM_SHARE);
    return Math.floor(this.maxDelayMs * Math.min(1, grown));
  }

  /** How many changes were delayed since the start. */
  get delayedChanges(): number {
    return this.#delayedChanges;
  }

  /** A change is delayed. */
  note(): void {
    this.#delayedChanges += 1;
  }
}
