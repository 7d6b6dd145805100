// Devices that do wrong on demand: one that fails calls that the test chose, one that does only the first part of a
// change. Without orders from the test both do nothing but pass calls on.
import { BlockError } from '../../src/base/errors.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { Extent } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import type { DeviceOp } from './recorder-device.ts';

export interface FaultRule {
  /** Which operations fail; all when not given. */
  readonly ops?: readonly DeviceOp[];
  /** How many calls fail before the rule is used up; endless when not given. */
  readonly times?: number;
  /** Only calls that touch [from, to) fail. */
  readonly from?: number;
  readonly to?: number;
  /** What is thrown; EIO when not given. */
  readonly error?: unknown;
  /** Answers a rejected promise instead of throwing. */
  readonly rejects?: boolean;
}

/** Fails on demand, before the device below is called. */
export class FaultDevice extends PassThrough {
  #rules: Array<{ rule: FaultRule; left: number }> = [];
  /** How many calls were made to fail. */
  faults = 0;

  fail(rule: FaultRule = {}): void {
    this.#rules.push({ rule, left: rule.times ?? Number.POSITIVE_INFINITY });
  }

  /** Forgets every rule. */
  heal(): void {
    this.#rules = [];
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#fault('read', offset, target.length) ?? super.read(offset, target);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#fault('write', offset, data.length) ?? super.write(offset, data, fua);
  }

  override flush(): MaybePromise<void> {
    return this.#fault('flush', 0, Number.MAX_SAFE_INTEGER) ?? super.flush();
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#fault('trim', offset, length) ?? super.trim(offset, length, fua);
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#fault('writeZeroes', offset, length) ?? super.writeZeroes(offset, length, fua, mayTrim);
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.#fault('cache', offset, length) ?? super.cache(offset, length);
  }

  override extents(offset: number, length: number): MaybePromise<Extent[]> {
    return this.#fault('extents', offset, length) ?? super.extents(offset, length);
  }

  #fault(op: DeviceOp, offset: number, length: number): Promise<never> | undefined {
    for (const entry of this.#rules) {
      const { ops, from = 0, to = Number.POSITIVE_INFINITY, error, rejects } = entry.rule;
      if (entry.left === 0 || (ops && !ops.includes(op))) continue;
      if (offset >= to || offset + length <= from) continue;
      entry.left -= 1;
      this.faults += 1;
      const thrown: unknown = error ?? new BlockError('EIO', `injected fault in ${op} ${offset}+${length}`);
      if (rejects) return Promise.reject(thrown);
      throw thrown;
    }
    return undefined;
  }
}

/**
 * Does only the first `shortBytes` of the next change, and then either fails or says that all was well: a disk that
 * lies, to see whether a test notices.
 */
export class ShortDevice extends PassThrough {
  #next: { shortBytes: number; lies: boolean } | undefined;

  cutNext(shortBytes: number, options: { readonly lies: boolean }): void {
    this.#next = { shortBytes, lies: options.lies };
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#cut(data.length, (length) => super.write(offset, data.subarray(0, length), fua));
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#cut(length, (part) => super.trim(offset, part, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#cut(length, (part) => super.writeZeroes(offset, part, fua, mayTrim));
  }

  #cut(length: number, run: (length: number) => MaybePromise<void>): MaybePromise<void> {
    const cut = this.#next;
    if (!cut || cut.shortBytes >= length) return run(length);
    this.#next = undefined;
    const end = (): void => {
      if (!cut.lies) throw new BlockError('EIO', `only ${cut.shortBytes} of ${length} bytes were done`);
    };
    const result = run(cut.shortBytes);
    return result instanceof Promise ? result.then(end) : end();
  }
}
