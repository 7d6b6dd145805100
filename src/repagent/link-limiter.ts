// Holds what the agent sends to its hub to a bandwidth that may change with the time of the week, and measures it. It
// only says when the next frame may leave: a frame leaves whole, so that control frames can always go between two.
import { TokenBucket } from '../base/token-bucket.ts';
import type { LinkTraffic } from '../control/status.ts';
import { type Bandwidth, type BandwidthSchedule, bandwidthAt, localClock } from './bandwidth-schedule.ts';
import { RateMeter } from './rate-meter.ts';

/** For how long an allowance that is not used is saved up: enough for timers that come late, ms. */
const BURST_MS = 250;

const MINUTE_MS = 60_000;

export interface LimiterClocks {
  /** Only goes forward, ms. */
  readonly nowMs: () => number;
  /** Unix milliseconds. */
  readonly wallMs: () => number;
}

export class LinkLimiter {
  readonly #schedule: BandwidthSchedule;
  readonly #clocks: LimiterClocks;
  readonly #meter: RateMeter;
  #bucket: TokenBucket | undefined;
  #limit: Bandwidth = null;
  #plainBytes = 0;
  /** Whole minutes of Unix time for which the limit was looked up: rules begin and end with a minute. */
  #lookedUpFor = Number.NaN;

  constructor(schedule: BandwidthSchedule, clocks: LimiterClocks) {
    this.#schedule = schedule;
    this.#clocks = clocks;
    this.#meter = new RateMeter(clocks.nowMs());
    this.#lookUp();
  }

  /** Whether there is a limit at present. */
  get isLimited(): boolean {
    this.#lookUp();
    return this.#limit !== null;
  }

  /** Until it's worth asking again whether something may be sent, ms; 0: it may now. */
  waitMs(): number {
    this.#lookUp();
    const waitMs = this.#bucket?.waitMs(this.#clocks.nowMs()) ?? 0;
    if (waitMs <= 0) return 0;
    // With the next minute another limit may begin.
    return Math.min(waitMs, MINUTE_MS - (this.#clocks.wallMs() % MINUTE_MS));
  }

  /** The limit that holds now; null: none. */
  get limitBytesPerSecond(): Bandwidth {
    this.#lookUp();
    return this.#limit;
  }

  /**
   * So many bytes are sent. More than is allowed is paid for by what comes after.
   * @param plainBytes what they were before they were packed
   */
  take(bytes: number, plainBytes = bytes): void {
    this.#bucket?.take(bytes);
    this.#plainBytes += plainBytes;
    this.#meter.note(bytes, this.#clocks.nowMs());
  }

  get traffic(): LinkTraffic {
    this.#lookUp();
    return {
      sentBytes: this.#meter.totalBytes,
      plainBytes: this.#plainBytes,
      bytesPerSecond: this.#meter.bytesPerSecond(this.#clocks.nowMs()),
      limitBytesPerSecond: this.#limit,
    };
  }

  #lookUp(): void {
    if (this.#schedule.rules.length === 0 && this.#limit === this.#schedule.otherwise) return;
    const wallMs = this.#clocks.wallMs();
    const minute = Math.floor(wallMs / MINUTE_MS);
    if (minute === this.#lookedUpFor) return;
    this.#lookedUpFor = minute;
    const limit = bandwidthAt(this.#schedule, localClock(wallMs));
    if (limit === this.#limit) return;
    this.#limit = limit;
    if (limit === null) this.#bucket = undefined;
    else if (this.#bucket) this.#bucket.change(limit, BURST_MS, this.#clocks.nowMs());
    else this.#bucket = new TokenBucket(limit, BURST_MS, this.#clocks.nowMs());
  }
}
