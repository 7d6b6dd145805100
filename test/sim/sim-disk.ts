// A disk behind a page cache: changes take effect some time before they are answered, in any order, and are durable only
// after a flush. A killed process leaves what reached the cache, a power cut any part of what was not flushed. It
// counts who breaks the rules of a BlockDevice: overlapping changes that are under way together.
import { BlockError, type BlockErrorCode } from '../../src/base/errors.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import {
  allData,
  type BlockDevice,
  type DeviceLimits,
  type Extent,
} from '../../src/blockdev/block-device.ts';
import type { Clock, Host } from './clock.ts';
import { fillSector, SECTOR, sectorTag } from './sectors.ts';

interface Change {
  readonly first: number;
  readonly end: number;
  /** What it brings; undefined: zeroes. Read when it takes effect. */
  readonly data: Buffer | undefined;
  readonly fua: boolean;
  hasEffect: boolean;
}

export class SimDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: DeviceLimits = {
    readOnly: false,
    minBlockBytes: SECTOR,
    preferredBlockBytes: 4096,
    maxRequestBytes: 32 * 1024 * 1024,
    fastZero: 'always',
    cheapExtents: true,
  };
  /** What a read sees, sector by sector, and what is on the medium for sure. */
  readonly now: Int32Array;
  readonly durable: Int32Array;
  /** Grows with everything that changes either. */
  version = 0;
  /** How long an answer takes at most, ms; 0: it's there when the call returns. */
  slowMs = 0;
  /** How long a flush takes at most, ms. */
  flushMs = 1;
  /** How many of the next changes, reads and flushes fail. */
  failChanges = 0;
  failReads = 0;
  failFlushes = 0;
  /** Changes fail for lack of space. */
  isFull = false;
  /** Failures that were answered. */
  faults = 0;
  /** Whose calls are served. */
  owner: Host | null = null;
  /** Another number is another file. */
  identity = 1;
  /** Nothing was ever written to it. */
  isEmpty = false;
  /** When it was last changed by its machine's clock, Unix ms, and what of that a power cut leaves for sure. */
  changedAtMs = 0;
  durableChangedAtMs = 0;
  /** Told of each change that takes effect. */
  changed: () => void = () => {};
  readonly violations: string[] = [];
  readonly #clock: Clock;
  readonly #random: () => number;
  #changes: Change[] = [];
  #calls = 0;

  constructor(clock: Clock, random: () => number, sizeBytes: number, tag: number) {
    this.#clock = clock;
    this.#random = random;
    this.sizeBytes = sizeBytes;
    this.now = new Int32Array(sizeBytes / SECTOR).fill(tag);
    this.durable = this.now.slice();
  }

  /** Nothing is under way. */
  get isIdle(): boolean {
    return this.#calls === 0;
  }

  /** A change of the sector has taken effect and is not answered yet. */
  isUnsettled(sector: number): boolean {
    return this.#changes.some((one) => one.hasEffect && one.first <= sector && sector < one.end);
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.failReads > 0) {
      this.failReads -= 1;
      return this.#fail('EIO');
    }
    if (this.slowMs === 0) return this.#look(offset, target, 0, target.length);
    // What is read is not of one moment.
    const half = Math.floor(target.length / (2 * SECTOR)) * SECTOR;
    return this.#call(this.slowMs, [
      () => this.#look(offset, target, 0, half),
      () => this.#look(offset, target, half, target.length),
    ]);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#change(offset, data.length, data, fua);
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change(offset, length, undefined, fua);
  }

  writeZeroes(offset: number, length: number, fua: boolean, _mayTrim: boolean): MaybePromise<void> {
    return this.#change(offset, length, undefined, fua);
  }

  flush(): MaybePromise<void> {
    if (this.failFlushes > 0) {
      this.failFlushes -= 1;
      return this.#call(this.flushMs, [() => this.#losePages()], 'EIO');
    }
    if (this.flushMs === 0) {
      this.durable.set(this.now);
      this.version += 1;
      return undefined;
    }
    const covered = this.now.slice();
    return this.#call(this.flushMs, [
      () => {
        for (let i = 0; i < covered.length; i += 1) {
          // What came later with FUA stays.
          if (this.durable[i] !== this.now[i]) this.durable[i] = covered[i]!;
        }
        this.version += 1;
      },
    ]);
  }

  cache(): void {}

  extents(offset: number, length: number): Extent[] {
    return allData(offset, length);
  }

  resize(): never {
    throw new BlockError('ENOTSUP', 'a simulated disk keeps its size');
  }

  async close(): Promise<void> {
    await this.flush();
  }

  /** The process that used it was killed: what the kernel had in hand happened, in part, or never will. */
  processDied(): void {
    for (const change of this.#changes) {
      if (!change.hasEffect && this.#random() < 0.6) this.#takeEffect(change, this.#random() < 0.3);
    }
    this.#changes = [];
    this.#calls = 0;
  }

  /** Power is cut: of what was not flushed, any sector may be on the medium. */
  powerCut(): void {
    this.processDied();
    const keep = this.#random();
    for (let i = 0; i < this.now.length; i += 1) {
      if (this.durable[i] !== this.now[i] && this.#random() < keep) this.durable[i] = this.now[i]!;
    }
    this.now.set(this.durable);
    // Data may be on the medium whose time of writing is not.
    if (this.#random() < 0.5) this.changedAtMs = this.durableChangedAtMs;
    this.durableChangedAtMs = this.changedAtMs;
    this.version += 1;
  }

  /** Somebody puts something else in its place. @param atMs when that was written, Unix ms */
  replace(tags: Int32Array, atMs: number): void {
    this.now.set(tags);
    this.durable.set(tags);
    this.isEmpty = false;
    this.changedAtMs = atMs;
    this.durableChangedAtMs = atMs;
    this.version += 1;
  }

  /** What is known of it but not its data is on the medium: what fsync does, and fdatasync doesn't. */
  syncTimes(): void {
    this.durableChangedAtMs = this.changedAtMs;
  }

  #change(offset: number, length: number, data: Buffer | undefined, fua: boolean): MaybePromise<void> {
    const first = offset / SECTOR;
    const change: Change = { first, end: first + length / SECTOR, data, fua, hasEffect: false };
    if (change.end > this.now.length || !Number.isInteger(first) || !Number.isInteger(change.end)) {
      this.violations.push(`a change of ${offset}+${length} on a disk of ${this.sizeBytes}`);
    }
    const other = this.#changes.find((one) => one.first < change.end && change.first < one.end);
    if (other) this.violations.push(`changes of ${change.first} and ${other.first} are under way together`);
    if (this.isFull || this.failChanges > 0) {
      if (!this.isFull) this.failChanges -= 1;
      const code = this.isFull ? 'ENOSPC' : 'EIO';
      if (this.slowMs === 0) {
        this.#takeEffect(change, true);
        return this.#fail(code);
      }
      return this.#slowChange(change, true, code);
    }
    if (this.slowMs > 0) return this.#slowChange(change, false, undefined);
    this.#takeEffect(change, false);
  }

  #slowChange(change: Change, inPart: boolean, code: BlockErrorCode | undefined): Promise<void> {
    this.#changes.push(change);
    return this.#call(
      this.slowMs,
      [
        () => this.#takeEffect(change, inPart),
        () => {
          this.#changes.splice(this.#changes.indexOf(change), 1);
        },
      ],
      code,
    );
  }

  #takeEffect(change: Change, inPart: boolean): void {
    const { first, end, data, fua } = change;
    change.hasEffect = true;
    const to = inPart ? first + Math.floor(this.#random() * (end - first)) : end;
    for (let i = first; i < to; i += 1) {
      this.now[i] = data ? sectorTag(data, (i - first) * SECTOR) : 0;
      if (fua) this.durable[i] = this.now[i]!;
    }
    this.isEmpty = false;
    this.changedAtMs = this.#clock.wallMsOf(this.owner);
    this.version += 1;
    this.changed();
  }

  #look(offset: number, target: Buffer, from: number, to: number): void {
    for (let at = from; at < to; at += SECTOR) fillSector(target, at, this.now[(offset + at) / SECTOR]!);
  }

  /** A flush that fails: the kernel drops some of what it could not write. */
  #losePages(): void {
    for (let i = 0; i < this.now.length; i += 1) {
      if (this.durable[i] !== this.now[i] && this.#random() < 0.5) this.now[i] = this.durable[i]!;
    }
    this.version += 1;
  }

  #fail(code: BlockErrorCode): never {
    this.faults += 1;
    throw new BlockError(code, `simulated ${code}`);
  }

  /** Steps one after another at random times; the last one ends with the answer. */
  #call(mostMs: number, steps: ReadonlyArray<() => void>, code?: BlockErrorCode): Promise<void> {
    this.#calls += 1;
    const { owner } = this;
    return new Promise((resolve, reject) => {
      let delayMs = 0;
      steps.forEach((step, i) => {
        delayMs += 0.01 + this.#random() ** 3 * mostMs;
        this.#clock.after(delayMs, owner, () => {
          step();
          if (i < steps.length - 1) return;
          this.#calls -= 1;
          if (code === undefined) return resolve();
          this.faults += 1;
          reject(new BlockError(code, `simulated ${code}`));
        });
      });
    });
  }
}
