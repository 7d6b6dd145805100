// filter retry: makes calls again that failed. A change is repeated before any later change of the same bytes is begun,
// and an error of durability is never repeated away: whoever flushes must hear of it.
import { BlockError, type BlockErrorCode, errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import { sleep } from '../base/sleep.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { RangeLock } from '../blockdev/range-lock.ts';
import { AroundFilter, type Call, isChange } from './around-filter.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';

const CODES = ['EIO', 'ENOMEM', 'ENOSPC', 'EPERM', 'ESHUTDOWN'] as const satisfies readonly BlockErrorCode[];

export const retryFilter = defineFilter({
  name: 'retry',
  summary: 'Makes failed reads and changes again, after a growing delay',
  options: {
    retries: {
      kind: 'integer',
      min: 0,
      max: 1000,
      default: 5,
      adjustable: true,
      description: 'how often a call is made again before its error is told',
    },
    delay: {
      kind: 'duration',
      min: 1,
      max: 3_600_000,
      default: 500,
      adjustable: true,
      description: 'the wait before the first time; each further one is twice as long',
    },
    'max-delay': {
      kind: 'duration',
      min: 1,
      max: 3_600_000,
      default: 10_000,
      adjustable: true,
      description: 'the longest wait',
    },
    error: {
      kind: 'list',
      choices: CODES,
      default: ['EIO'],
      description: 'the errors after which it is worth trying again',
    },
  },
  examples: [
    { spec: 'retry', text: 'Five more times in 16 seconds, before the guest hears of an EIO' },
    {
      spec: 'retry,retries=100,delay=1s,max-delay=1s,error=EIO+ENOSPC',
      text: 'A guest waits while somebody makes room',
    },
  ],
  create(below, options, { logger }) {
    const { retries, delay, error } = options;
    return new RetryFilter(below, { retries, delay, 'max-delay': options['max-delay'] }, error, logger);
  },
});

interface Patience {
  readonly retries: number;
  /** Milliseconds. */
  readonly delay: number;
  readonly 'max-delay': number;
}

class RetryFilter extends AroundFilter {
  #patience: Patience;
  readonly #codes: readonly BlockErrorCode[];
  readonly #logger: Logger;
  readonly #order = new RangeLock();
  #retrying = 0;
  #retries = 0;
  #recovered = 0;
  #gaveUp = 0;

  constructor(below: BlockDevice, patience: Patience, codes: readonly BlockErrorCode[], logger: Logger) {
    super(below);
    this.#patience = patience;
    this.#codes = codes;
    this.#logger = logger;
  }

  status(): FilterStatus {
    const { retries, delay } = this.#patience;
    const counts = { retries: this.#retries, recovered: this.#recovered, gaveUp: this.#gaveUp };
    return { waiting: this.#retrying, ...counts, limit: retries, delayMs: delay };
  }

  adjust(changes: Partial<Patience>): void {
    this.#patience = { ...this.#patience, ...changes };
  }

  /** Durable by a flush of its own, which is not repeated: had it failed once, other writes may be lost with it. */
  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#durably(super.write(offset, data, false), fua);
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#durably(super.trim(offset, length, false), fua);
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#durably(super.writeZeroes(offset, length, false, mayTrim), fua);
  }

  protected override around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    if (call.operation === 'flush') return run();
    if (!isChange(call.operation)) return this.#attempt(call, run);
    return this.#order.run(call.offset, call.length, () => this.#attempt(call, run));
  }

  #durably(change: MaybePromise<void>, fua: boolean): MaybePromise<void> {
    return fua ? andThen(change, () => this.below.flush()) : change;
  }

  #attempt<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    let result: MaybePromise<T>;
    try {
      result = run();
    } catch (error) {
      return this.#again(call, run, error);
    }
    return result instanceof Promise
      ? result.catch((error: unknown) => this.#again(call, run, error))
      : result;
  }

  /** The loop's length is limited by `retries`, whose value may change meanwhile. @throws the last error */
  async #again<T>(call: Call, run: () => MaybePromise<T>, first: unknown): Promise<T> {
    let error = first;
    if (!this.#isWorthIt(error)) throw error;
    this.#begin(call, error);
    try {
      for (let tries = 0; tries < this.#patience.retries && this.#isWorthIt(error); tries += 1) {
        await sleep(Math.min(this.#patience.delay * 2 ** tries, this.#patience['max-delay']));
        this.#retries += 1;
        try {
          const value = await run();
          this.#recovered += 1;
          return value;
        } catch (next) {
          error = next;
        }
      }
    } finally {
      this.#retrying -= 1;
    }
    this.#gaveUp += 1;
    throw error;
  }

  /** One line for a time of trouble, not one for each call. */
  #begin(call: Call, error: unknown): void {
    this.#retrying += 1;
    if (this.#retrying > 1) return;
    this.#logger.warn(
      { operation: call.operation, offset: call.offset, length: call.length },
      `a ${call.operation} failed and is made again: ${errorMessage(error)}`,
    );
  }

  #isWorthIt(error: unknown): boolean {
    return error instanceof BlockError && this.#codes.includes(error.code);
  }
}
