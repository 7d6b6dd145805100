// A device that answers nothing by itself: every call waits, as a promise, until the test lets it go, in any order.
// A call takes effect on the device below when it is released, so a buffer that changed meanwhile shows.
import { BlockError } from '../../src/base/errors.ts';
import { type Deferred, deferred } from '../../src/base/lifecycle.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { Extent } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import type { DeviceOp } from './recorder-device.ts';

export class HeldCall {
  readonly op: DeviceOp;
  readonly offset: number;
  readonly length: number;
  readonly #run: () => MaybePromise<unknown>;
  readonly #answer: Deferred<unknown>;
  readonly #leave: (call: HeldCall) => void;

  constructor(
    what: { op: DeviceOp; offset: number; length: number },
    run: () => MaybePromise<unknown>,
    answer: Deferred<unknown>,
    leave: (call: HeldCall) => void,
  ) {
    this.op = what.op;
    this.offset = what.offset;
    this.length = what.length;
    this.#run = run;
    this.#answer = answer;
    this.#leave = leave;
  }

  /** Carries the call out and answers it. Resolves when those who wait for the answer have run. */
  async release(): Promise<void> {
    this.#leave(this);
    try {
      this.#answer.resolve(await this.#run());
    } catch (error) {
      this.#answer.reject(error);
    }
    await settled();
  }

  /** Answers with an error; the call has no effect. */
  async fail(error: unknown = new BlockError('EIO', `held ${this.op} failed`)): Promise<void> {
    this.#leave(this);
    this.#answer.reject(error);
    await settled();
  }

  toString(): string {
    return this.op === 'flush' ? 'flush' : `${this.op} ${this.offset}+${this.length}`;
  }
}

export class HeldDevice extends PassThrough {
  /** Calls that wait, in order of arrival. */
  readonly waiting: HeldCall[] = [];
  /** While false, calls go straight to the device below. */
  holding = true;

  /** What waits, as text such as `write 0+512`. */
  lines(): string[] {
    return this.waiting.map(String);
  }

  /** Releases everything in order of arrival, including what arrives meanwhile, until nothing waits. */
  async releaseAll(): Promise<void> {
    for (let call = this.waiting[0]; call; call = this.waiting[0]) await call.release();
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#hold('read', offset, target.length, () => super.read(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#hold('write', offset, data.length, () => super.write(offset, data, fua));
  }

  override flush(): MaybePromise<void> {
    return this.#hold('flush', 0, 0, () => super.flush());
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#hold('trim', offset, length, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#hold('writeZeroes', offset, length, () => super.writeZeroes(offset, length, fua, mayTrim));
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.#hold('cache', offset, length, () => super.cache(offset, length));
  }

  override extents(offset: number, length: number): MaybePromise<Extent[]> {
    return this.#hold('extents', offset, length, () => super.extents(offset, length));
  }

  #hold<T>(op: DeviceOp, offset: number, length: number, run: () => MaybePromise<T>): MaybePromise<T> {
    if (!this.holding) return run();
    const answer = deferred<unknown>();
    const call = new HeldCall({ op, offset, length }, run, answer, (left) => {
      this.waiting.splice(this.waiting.indexOf(left), 1);
    });
    this.waiting.push(call);
    return answer.promise as Promise<T>;
  }
}

/** Resolves after every promise reaction that is already due, and those that they cause, have run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Whether `promise` is still pending once all that is due has run. */
export async function isPending(promise: MaybePromise<unknown>): Promise<boolean> {
  let pending = promise instanceof Promise;
  if (promise instanceof Promise) {
    const done = (): void => {
      pending = false;
    };
    promise.then(done, done);
  }
  await settled();
  return pending;
}
