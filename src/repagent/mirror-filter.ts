// The mirroring filter: every change goes to the device below, and when it has taken effect, to each hub's mirror: all
// of them hear of the same changes, overlapping ones in the same order. It must never make the guest wait for a hub, but
// for a bounded time where its owner asked for that, nor fail for one; while the device below answers at once, so does this, without a promise and without a closure.
//
// Deliberately no PassThrough: a method that is added to BlockDevice, or a kind that is added to Mutation, doesn't
// compile until it's decided here whether it changes the disk.
import { assert, unreachable } from '../base/assert.ts';
import { toBlockError } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/limits.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import { sleep } from '../base/sleep.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';
import type { MutationKind } from '../blockdev/mutation.ts';
import { RangeLock } from '../blockdev/range-lock.ts';
import { DerivedLimits } from '../filter/derived-limits.ts';
import type { Generation } from './dirty-map.ts';
import { GUEST_CHANGE, GUEST_FLUSH, GUEST_READ, GuestLoad } from './guest-load.ts';
import type { GuestThrottle } from './guest-throttle.ts';
import type { Mirror, MirroredDisk } from './mirror.ts';
import { RangeWatches } from './range-watch.ts';

/** What each mirror gave at the beginning of a change, in their order. */
type Tokens = Array<Generation | undefined>;

export class MirrorFilter implements BlockDevice, MirroredDisk {
  readonly below: BlockDevice;
  readonly lock = new RangeLock();
  readonly watches = new RangeWatches();
  readonly load = new GuestLoad();
  /** The device below is being closed or is closed. */
  isClosed = false;
  readonly #mirrors: Mirror[] = [];
  /** Of the mirrors that have one: none as a rule, which costs a change one comparison. */
  readonly #throttles: GuestThrottle[] = [];
  /** Of the change that is being made, as long as it is made in one go: spares it an array of its own. */
  readonly #tokens: Tokens = [];
  readonly #limits: DerivedLimits;
  #sizeBytes: number;
  #closing: Promise<void> | undefined;

  constructor(below: BlockDevice) {
    this.below = below;
    this.#sizeBytes = below.sizeBytes;
    // Hubs know whole sectors only.
    this.#limits = new DerivedLimits(below, (limits) => ({
      minBlockBytes: Math.max(limits.minBlockBytes, SECTOR_BYTES),
    }));
  }

  /** One more mirror, before any change is made. */
  join(mirror: Mirror): void {
    assert(this.lock.size === 0, 'a mirror joins before there are changes');
    this.#mirrors.push(mirror);
    if (mirror.throttle) this.#throttles.push(mirror.throttle);
    this.#tokens.push(undefined);
  }

  /** What guests may reach, bytes: less than the device below has until every mirror knows of the rest. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#limits.current;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    const result = this.below.read(offset, target);
    if (this.load.watcher) this.load.watch(GUEST_READ, result);
    return result;
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#change('write', offset, data.length, data, fua, false, undefined);
  }

  flush(): MaybePromise<void> {
    return this.#carryOut('flush', 0, 0, undefined, false, false, undefined);
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change('trim', offset, length, undefined, fua, false, undefined);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#change('writeZeroes', offset, length, undefined, fua, mayTrim, undefined);
  }

  writeRemotely(by: Mirror, offset: number, data: Buffer): MaybePromise<void> {
    return this.#change('write', offset, data.length, data, false, false, by);
  }

  cache(offset: number, length: number): MaybePromise<void> {
    return this.below.cache(offset, length);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.below.extents(offset, length, maxExtents);
  }

  resize(sizeBytes: number): MaybePromise<void> {
    return andThen(this.below.resize(sizeBytes), () => {
      for (const mirror of this.#mirrors) mirror.grown();
      this.#sizeBytes = this.below.sizeBytes;
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  /** A change of a range: after those that it overlaps. @param by the mirror that is not told of it */
  #change(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
    by: Mirror | undefined,
  ): MaybePromise<void> {
    const { lock } = this;
    if (length === 0) return this.#apply(kind, offset, length, data, fua, mayTrim);
    if (this.#throttles.length > 0 && by === undefined) {
      const delayMs = this.#delayMs();
      if (delayMs > 0) {
        const dueMs = performance.now() + delayMs;
        return lock.run(offset, length, async () => {
          // One that waited for others meanwhile has waited enough.
          const leftMs = dueMs - performance.now();
          if (leftMs > 0) await sleep(leftMs);
          await this.#carryOut(kind, offset, length, data, fua, mayTrim, by);
        });
      }
    }
    if (lock.size > 0 && lock.overlaps(offset, length)) {
      return lock.run(offset, length, () => this.#carryOut(kind, offset, length, data, fua, mayTrim, by));
    }
    return lock.track(offset, length, this.#carryOut(kind, offset, length, data, fua, mayTrim, by));
  }

  /** How long a guest's change has to wait: what the hub that is furthest behind asks for. */
  #delayMs(): number {
    let delayMs = 0;
    for (const throttle of this.#throttles) {
      const each = throttle.delayMs;
      if (each > 0) throttle.note();
      if (each > delayMs) delayMs = each;
    }
    return delayMs;
  }

  #carryOut(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
    by: Mirror | undefined,
  ): MaybePromise<void> {
    const bits = kind === 'flush' ? undefined : this.#begin(offset, length, by);
    if (!bits) return this.#finishChange(this.#tokens, kind, offset, length, data, fua, mayTrim, by);
    const tokens = [...this.#tokens];
    return bits.then(() => this.#finishChange(tokens, kind, offset, length, data, fua, mayTrim, by));
  }

  /** Every mirror but the writer's own learns that a change begins. @returns what has to be waited for before it may */
  #begin(offset: number, length: number, by: Mirror | undefined): Promise<unknown> | undefined {
    if (!this.watches.isEmpty) this.watches.touch(offset, length);
    let waits: Promise<unknown> | undefined;
    for (let at = 0; at < this.#mirrors.length; at += 1) {
      const mirror = this.#mirrors[at]!;
      if (mirror === by) continue;
      this.#tokens[at] = mirror.begin(offset, length);
      const bits = mirror.bitsDurable();
      if (bits) waits = waits ? Promise.all([waits, bits]) : bits;
    }
    return waits;
  }

  #finishChange(
    tokens: Tokens,
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
    by: Mirror | undefined,
  ): MaybePromise<void> {
    let result: MaybePromise<void>;
    try {
      result = this.#apply(kind, offset, length, data, fua, mayTrim);
      if (this.load.watcher && by === undefined) {
        this.load.watch(kind === 'flush' ? GUEST_FLUSH : GUEST_CHANGE, result);
      }
    } catch (error) {
      this.#failed(tokens, kind, offset, length, fua, by, error);
      throw error;
    }
    if (result instanceof Promise) {
      const kept = tokens === this.#tokens ? [...tokens] : tokens;
      return result.then(
        () => this.#completed(kept, kind, offset, length, data, by),
        (error: unknown) => {
          this.#failed(kept, kind, offset, length, fua, by, error);
          throw error;
        },
      );
    }
    this.#completed(tokens, kind, offset, length, data, by);
  }

  #completed(
    tokens: Tokens,
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    by: Mirror | undefined,
  ): void {
    for (let at = 0; at < this.#mirrors.length; at += 1) {
      const mirror = this.#mirrors[at]!;
      if (mirror !== by) mirror.completed(kind, tokens[at], offset, length, data);
      tokens[at] = undefined;
    }
  }

  #failed(
    tokens: Tokens,
    kind: MutationKind,
    offset: number,
    length: number,
    fua: boolean,
    by: Mirror | undefined,
    error: unknown,
  ): void {
    // A change with FUA is a flush too, unless it came to nothing before.
    if (kind === 'flush' || (fua && toBlockError(error).code !== 'ENOSPC')) this.#unflushed(error);
    for (let at = 0; at < this.#mirrors.length; at += 1) {
      const mirror = this.#mirrors[at]!;
      if (mirror !== by) mirror.failed(kind, tokens[at], offset, length);
      tokens[at] = undefined;
    }
  }

  #unflushed(error: unknown): void {
    for (const mirror of this.#mirrors) mirror.unflushed(error);
  }

  #apply(
    kind: MutationKind,
    offset: number,
    length: number,
    data: Buffer | undefined,
    fua: boolean,
    mayTrim: boolean,
  ): MaybePromise<void> {
    switch (kind) {
      case 'write':
        return this.below.write(offset, data!, fua);
      case 'writeZeroes':
        return this.below.writeZeroes(offset, length, fua, mayTrim);
      case 'trim':
        return this.below.trim(offset, length, fua);
      case 'flush':
        return this.below.flush();
      default:
        return unreachable(kind, 'mutation');
    }
  }

  /** Changes that wait for their turn have been accepted: they are carried out before the device is closed. */
  async #finish(): Promise<void> {
    this.isClosed = true;
    while (this.lock.size > 0) await this.lock.drain();
    try {
      await this.below.close();
    } catch (error) {
      this.#unflushed(error);
      throw error;
    } finally {
      await Promise.all(this.#mirrors.map((mirror) => mirror.forget()));
    }
  }
}
