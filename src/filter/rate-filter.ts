// filter rate: limits bytes and requests a second. Changes begin in the order in which they came; reads and changes hold
// each other up only by a limit that they share. While nothing has to wait a call costs a few comparisons.
import { type MaybePromise, settle } from '../base/maybe.ts';
import { TokenBucket } from '../base/token-bucket.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';
import type { IntegerOption, SizeOption } from './option-schema.ts';
import { PassThrough } from './pass-through.ts';

function bytesOption<const D extends string>(description: D) {
  return { kind: 'size', default: 0, adjustable: true, description } as const satisfies SizeOption;
}

function requestsOption<const D extends string>(description: D) {
  return {
    kind: 'integer',
    min: 0,
    default: 0,
    adjustable: true,
    description,
  } as const satisfies IntegerOption;
}

export const rateFilter = defineFilter({
  name: 'rate',
  summary: 'Limits how many bytes and requests go to the disk in a second',
  options: {
    bytes: bytesOption('bytes a second that are read and written together; 0 is no limit, as for the rest'),
    'read-bytes': bytesOption('bytes a second that are read'),
    'write-bytes': bytesOption('bytes a second that are written'),
    requests: requestsOption('reads and changes a second together'),
    'read-requests': requestsOption('reads a second'),
    'write-requests': requestsOption('writes, trims and zeroes a second'),
    burst: {
      kind: 'duration',
      min: 0,
      max: 3_600_000,
      default: 1000,
      adjustable: true,
      description: 'for how long an allowance that is not used is saved up',
    },
  },
  examples: [
    { spec: 'rate,bytes=50M', text: '50 MiB a second, reads and writes together' },
    {
      spec: 'rate,write-bytes=10M,requests=500,burst=10s',
      text: 'Short peaks pass, what lasts is slowed down',
    },
    { spec: 'rate', text: 'No limit yet; `repagent adjust VOLUME rate bytes=50M` sets one' },
  ],
  create(below, options) {
    return new RateFilter(below, options);
  },
});

const LIMITS = ['bytes', 'read-bytes', 'write-bytes', 'requests', 'read-requests', 'write-requests'] as const;
type Limit = (typeof LIMITS)[number];
type Rates = Readonly<Record<Limit | 'burst', number>>;

/** What waits for its turn. */
interface Waiting {
  readonly order: number;
  readonly bytes: number;
  readonly go: () => void;
}

/** Reads, or changes: the limits that hold for them, and those that wait. */
class Lane {
  byteBuckets: readonly TokenBucket[] = [];
  requestBuckets: readonly TokenBucket[] = [];
  readonly waiting: Waiting[] = [];

  /** Until the next one may go, milliseconds. */
  waitMs(nowMs: number): number {
    let waitMs = 0;
    for (const bucket of this.byteBuckets) waitMs = Math.max(waitMs, bucket.waitMs(nowMs));
    for (const bucket of this.requestBuckets) waitMs = Math.max(waitMs, bucket.waitMs(nowMs));
    return waitMs;
  }

  take(bytes: number): void {
    for (const bucket of this.byteBuckets) bucket.take(bytes);
    for (const bucket of this.requestBuckets) bucket.take(1);
  }
}

class RateFilter extends PassThrough {
  #rates: Rates;
  readonly #buckets = new Map<Limit, TokenBucket>();
  readonly #reads = new Lane();
  readonly #changes = new Lane();
  #arrivals = 0;
  #delayed = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(below: BlockDevice, rates: Rates) {
    super(below);
    this.#rates = rates;
    this.#setBuckets();
  }

  status(): FilterStatus {
    return {
      ...this.#rates,
      waitingReads: this.#reads.waiting.length,
      waitingChanges: this.#changes.waiting.length,
      delayed: this.#delayed,
    };
  }

  adjust(changes: Partial<Rates>): void {
    this.#rates = { ...this.#rates, ...changes };
    this.#setBuckets();
    this.#letGo();
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.#mayGo(this.#reads, target.length)) return super.read(offset, target);
    return this.#wait(this.#reads, target.length, () => super.read(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (this.#mayGo(this.#changes, data.length)) return super.write(offset, data, fua);
    return this.#wait(this.#changes, data.length, () => super.write(offset, data, fua));
  }

  /** A request that moves no bytes, like a writing of zeroes. */
  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    if (this.#mayGo(this.#changes, 0)) return super.trim(offset, length, fua);
    return this.#wait(this.#changes, 0, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    if (this.#mayGo(this.#changes, 0)) return super.writeZeroes(offset, length, fua, mayTrim);
    return this.#wait(this.#changes, 0, () => super.writeZeroes(offset, length, fua, mayTrim));
  }

  override close(): Promise<void> {
    clearTimeout(this.#timer);
    return super.close();
  }

  #setBuckets(): void {
    const nowMs = performance.now();
    for (const limit of LIMITS) {
      const perSecond = this.#rates[limit];
      const bucket = this.#buckets.get(limit);
      if (perSecond === 0) this.#buckets.delete(limit);
      else if (bucket) bucket.change(perSecond, this.#rates.burst, nowMs);
      else this.#buckets.set(limit, new TokenBucket(perSecond, this.#rates.burst, nowMs));
    }
    const those = (...limits: Limit[]): TokenBucket[] =>
      limits.flatMap((limit) => this.#buckets.get(limit) ?? []);
    this.#reads.byteBuckets = those('bytes', 'read-bytes');
    this.#changes.byteBuckets = those('bytes', 'write-bytes');
    this.#reads.requestBuckets = those('requests', 'read-requests');
    this.#changes.requestBuckets = those('requests', 'write-requests');
  }

  #mayGo(lane: Lane, bytes: number): boolean {
    if (this.#buckets.size === 0) return lane.waiting.length === 0;
    if (lane.waiting.length > 0 || lane.waitMs(performance.now()) > 0) return false;
    lane.take(bytes);
    return true;
  }

  #wait(lane: Lane, bytes: number, run: () => MaybePromise<void>): Promise<void> {
    this.#arrivals += 1;
    this.#delayed += 1;
    const order = this.#arrivals;
    const answer = new Promise<void>((resolve, reject) => {
      lane.waiting.push({ order, bytes, go: () => settle(run, resolve, reject) });
    });
    if (this.#timer === undefined) this.#letGo();
    return answer;
  }

  /** Begins what may begin, the one that came first before others, and looks again when the next one may. */
  #letGo(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (;;) {
      const nowMs = performance.now();
      const lanes = [this.#reads, this.#changes].filter((lane) => lane.waiting.length > 0);
      if (lanes.length === 0) return;
      const ready = lanes.filter((lane) => lane.waitMs(nowMs) <= 0);
      const [first] = ready.sort((a, b) => a.waiting[0]!.order - b.waiting[0]!.order);
      if (!first) {
        const waitMs = Math.min(...lanes.map((lane) => lane.waitMs(nowMs)));
        // A timer counts 31 bits of milliseconds; a look too early does no harm.
        this.#timer = setTimeout(() => this.#letGo(), Math.min(Math.ceil(waitMs), 60_000));
        return;
      }
      const next = first.waiting.shift()!;
      first.take(next.bytes);
      next.go();
    }
  }
}
