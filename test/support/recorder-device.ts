// A spy: passes every call on and keeps a list of them. It must not change what passes through.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice, Extent } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';

export type DeviceOp = 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes' | 'cache' | 'extents';

export interface RecordedCall {
  readonly op: DeviceOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly mayTrim: boolean;
  /** A copy of what was written. */
  readonly data?: Buffer;
  /** `pending` until the device below has answered. */
  outcome: 'pending' | 'ok' | { readonly error: unknown };
}

type Flags = Partial<Pick<RecordedCall, 'fua' | 'mayTrim' | 'data'>>;

export class RecorderDevice extends PassThrough {
  readonly calls: RecordedCall[] = [];
  closes = 0;

  /** The calls as text, such as `write 512+1024 fua`. */
  lines(): string[] {
    return this.calls.map(callLine);
  }

  /** The calls as text, and forgets them. */
  take(): string[] {
    const lines = this.lines();
    this.calls.length = 0;
    return lines;
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#record('read', offset, target.length, {}, () => super.read(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    const flags = { fua, data: Buffer.from(data) };
    return this.#record('write', offset, data.length, flags, () => super.write(offset, data, fua));
  }

  override flush(): MaybePromise<void> {
    return this.#record('flush', 0, 0, {}, () => super.flush());
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#record('trim', offset, length, { fua }, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#record('writeZeroes', offset, length, { fua, mayTrim }, () =>
      super.writeZeroes(offset, length, fua, mayTrim),
    );
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.#record('cache', offset, length, {}, () => super.cache(offset, length));
  }

  override extents(offset: number, length: number): MaybePromise<Extent[]> {
    return this.#record('extents', offset, length, {}, () => super.extents(offset, length));
  }

  override close(): Promise<void> {
    this.closes += 1;
    return super.close();
  }

  #record<T>(
    op: DeviceOp,
    offset: number,
    length: number,
    flags: Flags,
    run: () => MaybePromise<T>,
  ): MaybePromise<T> {
    const call: RecordedCall = {
      op,
      offset,
      length,
      fua: false,
      mayTrim: false,
      ...flags,
      outcome: 'pending',
    };
    this.calls.push(call);
    const ok = (value: T): T => {
      call.outcome = 'ok';
      return value;
    };
    const failed = (error: unknown): never => {
      call.outcome = { error };
      throw error;
    };
    let result: MaybePromise<T>;
    try {
      result = run();
    } catch (error) {
      return failed(error);
    }
    return result instanceof Promise ? result.then(ok, failed) : ok(result);
  }
}

export function callLine(call: RecordedCall): string {
  const range = call.op === 'flush' ? '' : ` ${call.offset}+${call.length}`;
  return `${call.op}${range}${call.fua ? ' fua' : ''}${call.mayTrim ? ' mayTrim' : ''}`;
}

/** Shorthand: a recorder over `below`. */
export function record(below: BlockDevice): RecorderDevice {
  return new RecorderDevice(below);
}
