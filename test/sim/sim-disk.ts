// A disk behind a page cache: changes take effect some time before they are answered, in any order, and are durable only
// after a flush. A killed process leaves what reached the cache, a power cut any part of what was not flushed, and torn
// sectors. It counts who breaks the rules of a BlockDevice: overlapping changes that are under way together.
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

/** Of the sectors that a fault may tear so many are. */
const TORN_SHARE = 0.1;

/** What a flush that failed did to the pages that it could not write. */
export type LostPages =
  /** They are what the medium has, at once. */
  | 'dropped'
  /** They are clean, and read as before until the process ends: nothing writes them any more. Later flushes fail too. */
  | 'forgotten';

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
  lostPages: LostPages = 'dropped';
  /** A flush has failed, of a disk that forgets pages: so does each other one, until it is opened again. */
  isFlushBroken = false;
  /** A flush failed, or what may have been one: whoever relies on the disk opens it anew. */
  isSuspect = false;
  /** What torn sectors hold is no write's; this is the write that tore them. */
  readonly tornBy = new Map<number, number>();
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
  /** Sectors whose content no flush will write. */
  readonly #forgotten = new Set<number>();
  #nextTorn: number;

  constructor(clock: Clock, random: () => number, sizeBytes: number, tag: number) {
    this.#clock = clock;
    this.#random = random;
    this.sizeBytes = sizeBytes;
    this.now = new Int32Array(sizeBytes / SECTOR).fill(tag);
    this.durable = this.now.slice();
    // Disk and image never hold the same.
    this.#nextTorn = tag === 0 ? -2 : -3;
  }

  /** Once nobody has the disk open, the sector may be what the medium has. */
  isForgotten(sector: number): boolean {
    return this.#forgotten.has(sector);
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
    if (this.#failsFlush()) return this.#call(this.flushMs, [() => this.#losePages()], 'EIO');
    if (this.flushMs === 0) {
      for (let i = 0; i < this.now.length; i += 1) {
        if (!this.#forgotten.has(i)) this.durable[i] = this.now[i]!;
      }
      this.version += 1;
      return undefined;
    }
    const covered = this.now.slice();
    return this.#call(this.flushMs, [
      () => {
        for (let i = 0; i < covered.length; i += 1) {
          // What came later with FUA stays.
          if (this.durable[i] !== this.now[i] && !this.#forgotten.has(i)) this.durable[i] = covered[i]!;
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

  /** The same disk, as somebody would find it whose calls take no time. What is done to it is not done to this one. */
  apart(random: () => number): SimDisk {
    const apart = new SimDisk(this.#clock, random, this.sizeBytes, 0);
    apart.now.set(this.now);
    apart.durable.set(this.durable);
    apart.flushMs = 0;
    apart.identity = this.identity;
    apart.isEmpty = this.isEmpty;
    apart.changedAtMs = this.changedAtMs;
    apart.durableChangedAtMs = this.durableChangedAtMs;
    apart.#changes = this.#changes.map((change) => ({ ...change }));
    apart.#nextTorn = this.#nextTorn;
    for (const [torn, tag] of this.tornBy) apart.tornBy.set(torn, tag);
    for (const sector of this.#forgotten) apart.#forgotten.add(sector);
    return apart;
  }

  /** The process that used it was killed: what the kernel had in hand happened, in part, or never will. */
  processDied(): void {
    for (const change of this.#changes) {
      if (!change.hasEffect && this.#random() < 0.6) this.#takeEffect(change, this.#random() < 0.3);
    }
    this.#changes = [];
    this.#calls = 0;
    this.isFlushBroken = false;
    this.isSuspect = false;
    for (const sector of this.#forgotten) this.now[sector] = this.durable[sector]!;
    this.#forgotten.clear();
    this.version += 1;
  }

  /** Power is cut: of what was not flushed, any sector may be on the medium, or a part of it. */
  powerCut(): void {
    this.processDied();
    const keep = this.#random();
    for (let i = 0; i < this.now.length; i += 1) {
      if (this.durable[i] === this.now[i]) continue;
      if (this.#random() < TORN_SHARE) this.durable[i] = this.#torn(this.now[i]!);
      else if (this.#random() < keep) this.durable[i] = this.now[i]!;
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
    this.#forgotten.clear();
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
      if (fua && code === 'EIO') this.isSuspect = true;
      if (this.slowMs === 0) {
        this.#takeEffect(change, true);
        return this.#fail(code);
      }
      return this.#slowChange(change, true, code);
    }
    if (fua && this.#failsFlush()) return this.#failFua(change);
    if (this.slowMs > 0) return this.#slowChange(change, false, undefined);
    this.#takeEffect(change, false);
  }

  /** Written, but not flushed. */
  #failFua(change: Change): MaybePromise<void> {
    const unflushed = { ...change, fua: false };
    if (this.slowMs > 0) return this.#slowChange(unflushed, false, 'EIO', () => this.#losePages());
    this.#takeEffect(unflushed, false);
    this.#losePages();
    return this.#fail('EIO');
  }

  #slowChange(
    change: Change,
    inPart: boolean,
    code: BlockErrorCode | undefined,
    then: () => void = () => {},
  ): Promise<void> {
    this.#changes.push(change);
    return this.#call(
      this.slowMs,
      [
        () => this.#takeEffect(change, inPart),
        () => {
          this.#changes.splice(this.#changes.indexOf(change), 1);
          then();
        },
      ],
      code,
    );
  }

  #takeEffect(change: Change, inPart: boolean): void {
    const { first, end, data, fua } = change;
    change.hasEffect = true;
    const to = inPart ? first + Math.floor(this.#random() * (end - first)) : end;
    for (let i = first; i < to; i += 1) this.#put(i, data ? sectorTag(data, (i - first) * SECTOR) : 0, fua);
    if (to < end && this.#random() < TORN_SHARE) {
      const tag = data ? sectorTag(data, (to - first) * SECTOR) : 0;
      if (tag !== this.now[to]) this.#put(to, this.#torn(tag), fua);
    }
    this.isEmpty = false;
    this.changedAtMs = this.#clock.wallMsOf(this.owner);
    this.version += 1;
    this.changed();
  }

  #put(sector: number, tag: number, fua: boolean): void {
    this.now[sector] = tag;
    this.#forgotten.delete(sector);
    if (fua) this.durable[sector] = tag;
  }

  /** A part of the sector is what it was. */
  #torn(tag: number): number {
    const torn = this.#nextTorn;
    this.#nextTorn -= 2;
    this.tornBy.set(torn, tag);
    return torn;
  }

  #look(offset: number, target: Buffer, from: number, to: number): void {
    for (let at = from; at < to; at += SECTOR) fillSector(target, at, this.now[(offset + at) / SECTOR]!);
  }

  #failsFlush(): boolean {
    if (this.isFlushBroken) return true;
    if (this.failFlushes <= 0) return false;
    this.failFlushes -= 1;
    this.isFlushBroken = this.lostPages === 'forgotten';
    return true;
  }

  /** A flush that fails: the kernel drops some of what it could not write, and calls it clean. */
  #losePages(): void {
    this.isSuspect = true;
    for (let i = 0; i < this.now.length; i += 1) {
      if (this.durable[i] === this.now[i] || this.#random() < 0.5) continue;
      if (this.lostPages === 'forgotten') this.#forgotten.add(i);
      else this.now[i] = this.durable[i]!;
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
