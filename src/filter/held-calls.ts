// The calls that wait above a guard while it is paused. They must go on in order of arrival, and before any call that
// comes after them. How many there can be is limited by who calls: each NBD connection has so many in flight.
import { type MaybePromise, settle } from '../base/maybe.ts';
import { AroundFilter, type Call } from './around-filter.ts';

export class HeldCalls extends AroundFilter {
  readonly #waiting: Array<() => void> = [];

  /** How many calls wait. */
  get count(): number {
    return this.#waiting.length;
  }

  /** Makes every call, on the device below. That one must hold no calls any more. */
  release(): void {
    for (const go of this.#waiting.splice(0)) go();
  }

  override resize(sizeBytes: number): MaybePromise<void> {
    return this.#wait(() => super.resize(sizeBytes));
  }

  protected override around<T>(_call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    return this.#wait(run);
  }

  #wait<T>(run: () => MaybePromise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => settle(run, resolve, reject));
    });
  }
}
