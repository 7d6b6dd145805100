// filter delay: a slow disk. Each call waits before it goes to the device below; changes that overlap keep their
// order, whatever each of them has to wait.
import { UsageError } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { sleep } from '../base/sleep.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { RangeLock } from '../blockdev/range-lock.ts';
import { AroundFilter, type Call, isChange, type Operation } from './around-filter.ts';
import { defineFilter } from './define-filter.ts';
import type { DurationOption } from './option-schema.ts';
import { freshSeed, MAX_SEED, seededRandom } from './random.ts';

/** Longest delay, milliseconds: beyond an hour a mistake is likelier than an intention. */
const MAX_DELAY_MS = 3_600_000;

function delayOption<const D extends string>(description: D) {
  return { kind: 'duration', min: 0, max: MAX_DELAY_MS, description } as const satisfies DurationOption;
}

export const delayFilter = defineFilter({
  name: 'delay',
  summary: 'Delays calls, to see how everything above copes with a slow disk',
  options: {
    read: delayOption('how long each read waits'),
    write: delayOption('how long each write waits'),
    flush: delayOption('how long each flush waits'),
    trim: delayOption('how long each trim waits'),
    zero: delayOption('how long each writing of zeroes waits'),
    jitter: {
      kind: 'duration',
      min: 0,
      max: MAX_DELAY_MS,
      default: 0,
      description:
        'up to this much is added at random to each wait of an operation named above, also if that is 0',
    },
    seed: {
      kind: 'integer',
      min: 0,
      max: MAX_SEED,
      description: 'makes the jitter repeatable; without it each run differs',
    },
  },
  examples: [
    { spec: 'delay,read=5ms,write=5ms', text: 'Every read and write takes 5 ms longer' },
    { spec: 'delay,flush=0ms,jitter=200ms', text: 'Flushes take anything up to 200 ms longer' },
  ],
  create(below, options) {
    const { read, write, flush, trim, zero, jitter, seed = freshSeed() } = options;
    const delays: Delays = { read, write, flush, trim, zero, cache: undefined, extents: undefined };
    if (Object.values(delays).every((delay) => delay === undefined)) {
      throw new UsageError('nothing is delayed; set read, write, flush, trim or zero');
    }
    return new DelayFilter(below, delays, jitter, seededRandom(seed));
  },
});

/** Milliseconds by operation; undefined is not delayed at all. */
type Delays = Readonly<Record<Operation, number | undefined>>;

class DelayFilter extends AroundFilter {
  readonly #delays: Delays;
  readonly #jitterMs: number;
  readonly #random: () => number;
  readonly #order = new RangeLock();

  constructor(below: BlockDevice, delays: Delays, jitterMs: number, random: () => number) {
    super(below);
    this.#delays = delays;
    this.#jitterMs = jitterMs;
    this.#random = random;
  }

  protected override around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    const delayMs = this.#draw(call.operation);
    const delayed = (): MaybePromise<T> => (delayMs === 0 ? run() : sleep(delayMs).then(run));
    return isChange(call.operation) ? this.#order.run(call.offset, call.length, delayed) : delayed();
  }

  #draw(operation: Operation): number {
    const delayMs = this.#delays[operation];
    if (delayMs === undefined) return 0;
    return this.#jitterMs === 0 ? delayMs : delayMs + this.#random() * this.#jitterMs;
  }
}
