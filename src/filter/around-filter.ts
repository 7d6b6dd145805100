// Base of the filters that treat all calls alike: they see each call as data and decide when, and whether, it runs.
// It costs an object and a closure a call, so what is always on must not build on it.
import type { MaybePromise } from '../base/maybe.ts';
import type { Extent } from '../blockdev/block-device.ts';
import { PassThrough } from './pass-through.ts';

/** The calls of a block device by the names that filter options use. */
export const OPERATIONS = ['read', 'write', 'flush', 'trim', 'zero', 'cache', 'extents'] as const;
export type Operation = (typeof OPERATIONS)[number];

/** Whether it changes what the disk holds. */
export function isChange(operation: Operation): boolean {
  return operation === 'write' || operation === 'trim' || operation === 'zero';
}

/** One call as data. A flush has offset and length 0. */
export interface Call {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly mayTrim: boolean;
}

export abstract class AroundFilter extends PassThrough {
  /** Answers `call`; `run` carries it out on the device below. */
  protected abstract around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T>;

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.around(plain('read', offset, target.length), () => super.read(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    const call: Call = { operation: 'write', offset, length: data.length, fua, mayTrim: false };
    return this.around(call, () => super.write(offset, data, fua));
  }

  override flush(): MaybePromise<void> {
    return this.around(plain('flush', 0, 0), () => super.flush());
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    const call: Call = { operation: 'trim', offset, length, fua, mayTrim: false };
    return this.around(call, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    const call: Call = { operation: 'zero', offset, length, fua, mayTrim };
    return this.around(call, () => super.writeZeroes(offset, length, fua, mayTrim));
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.around(plain('cache', offset, length), () => super.cache(offset, length));
  }

  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.around(plain('extents', offset, length), () => super.extents(offset, length, maxExtents));
  }
}

/** Base of the filters that watch: each call runs at once, and is reported when it was answered. */
export abstract class ObservingFilter extends AroundFilter {
  /** A call begins. @returns anything, to be given to `answered` */
  protected started(_call: Call): number {
    return 0;
  }

  /** A call was answered after `durationMs`; `error` is what it failed with, if it did. Must not throw. */
  protected abstract answered(call: Call, token: number, durationMs: number, error?: unknown): void;

  protected override around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    const token = this.started(call);
    const startMs = performance.now();
    let result: MaybePromise<T>;
    try {
      result = run();
    } catch (error) {
      this.answered(call, token, performance.now() - startMs, error);
      throw error;
    }
    if (result instanceof Promise) return this.#observe(result, call, token, startMs);
    this.answered(call, token, performance.now() - startMs);
    return result;
  }

  async #observe<T>(pending: Promise<T>, call: Call, token: number, startMs: number): Promise<T> {
    try {
      const value = await pending;
      this.answered(call, token, performance.now() - startMs);
      return value;
    } catch (error) {
      this.answered(call, token, performance.now() - startMs, error);
      throw error;
    }
  }
}

function plain(operation: Operation, offset: number, length: number): Call {
  return { operation, offset, length, fua: false, mayTrim: false };
}
