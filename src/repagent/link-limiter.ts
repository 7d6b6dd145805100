// Holds what the agent sends to its hub to a bandwidth that may change with the time of the week, and measures it. It
// only says when the next frame may leave: a frame leaves whole, so that control frames can always go between two.
import { TokenBucket } from '../base/token-bucket.ts';
import type { LinkTraffic } from '../control/status.ts';
import { type Bandwidth, type BandwidthSchedule, bandwidthAt, localClock } from './bandwidth-schedule.ts';

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
  readonly #meter: SendMeter;
  #bucket: TokenBucket | undefined;
  #limit: Bandwidth = null;
  /** Whole minutes of Unix time for which the limit was looked up: rules begin and end with a minute. */
  #lookedUpFor = Number.NaN;

  constructor(schedule: BandwidthSchedule, clocks: LimiterClocks) {
    this.#schedule = schedule;
    this.#clocks = clocks;
    this.#meter = new SendMeter(clocks.nowMs());
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

  /** So many bytes are sent. More than is allowed is paid for by what comes after. */
  take(bytes: number): void {
    this.#bucket?.take(bytes);
    this.#meter.note(bytes, this.#clocks.nowMs());
  }

  get traffic(): LinkTraffic {
    this.#lookUp();
    return {
      sentBytes: this.#meter.totalBytes,
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

/** Seconds over which the rate is taken. */
const METER_SECONDS = 4;

/** What was sent in the last whole seconds. */
class SendMeter {
  totalBytes = 0;
  readonly #firstSecond: number;
  /** One for each second, and the one that has begun. */
  readonly #cells = new Float64Array(METER_SECONDS + 1);
  #second: number;

  constructor(nowMs: number) {
    this.#firstSecond = Math.floor(nowMs / 1000);
    this.#second = this.#firstSecond;
  }

  note(bytes: number, nowMs: number): void {
    this.#advance(nowMs);
    this.totalBytes += bytes;
    this.#cells[this.#second % this.#cells.length]! += bytes;
  }

  /** Null before a whole second has passed. */
  bytesPerSecond(nowMs: number): number | null {
    this.#advance(nowMs);
    const seconds = Math.min(METER_SECONDS, this.#second - this.#firstSecond);
    if (seconds === 0) return null;
    let bytes = 0;
    for (let ago = 1; ago <= seconds; ago += 1) {
      bytes += this.#cells[(this.#second - ago) % this.#cells.length]!;
    }
    return Math.round(bytes / seconds);
  }

  #advance(nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    const passed = Math.min(this.#cells.length, second - this.#second);
    for (let i = 0; i < passed; i += 1) this.#cells[(second - i) % this.#cells.length] = 0;
    this.#second = Math.max(this.#second, second);
  }
}
