// A disk with a cache that loses its content without power: what was not flushed may be there, in part or whole, or not.
// It answers at once, and keeps in the order of writing what no flush has covered yet, so that the medium can be shown
// as a power cut at any moment would leave it. After a cut it takes nothing until power is back.
import { BlockError } from '../../src/base/errors.ts';
import { MAX_REQUEST_BYTES } from '../../src/base/limits.ts';
import {
  allData,
  type BlockDevice,
  type DeviceLimits,
  type Extent,
} from '../../src/blockdev/block-device.ts';

const SECTOR_BYTES = 512;

interface Unflushed {
  readonly offset: number;
  readonly data: Buffer;
}

export class VolatileDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: DeviceLimits = {
    readOnly: false,
    minBlockBytes: SECTOR_BYTES,
    preferredBlockBytes: 4096,
    maxRequestBytes: MAX_REQUEST_BYTES,
    fastZero: 'never',
    cheapExtents: false,
  };
  /** Changes and flushes that were answered. */
  changes = 0;
  flushes = 0;
  /** Called before each change or flush takes effect. */
  onRequest: (() => void) | undefined;
  /** What reads see, and what is on the medium for sure. */
  #now: Buffer;
  #medium: Buffer;
  #unflushed: Unflushed[] = [];
  #isOn = true;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#now = Buffer.alloc(sizeBytes);
    this.#medium = Buffer.alloc(sizeBytes);
  }

  /** The medium if nothing survived but what was flushed. */
  get flushed(): Buffer {
    return Buffer.from(this.#medium);
  }

  /** The medium as a power cut now might leave it: of what was not flushed some is there, some of it torn. */
  afterPowerCut(random: () => number): Buffer {
    const medium = this.flushed;
    const survives = random();
    for (const { offset, data } of this.#unflushed) {
      if (random() < survives) data.copy(medium, offset);
      else if (random() < 0.2) tear(data, medium, offset, random);
    }
    return medium;
  }

  /** From now on nothing is taken, until `powerOn`. */
  powerCut(random: () => number): void {
    this.#medium = this.afterPowerCut(random);
    this.#now = Buffer.from(this.#medium);
    this.#unflushed = [];
    this.#isOn = false;
  }

  powerOn(): void {
    this.#isOn = true;
  }

  read(offset: number, target: Buffer): void {
    this.#check();
    this.#now.copy(target, 0, offset, offset + target.length);
  }

  /** A write that is durable at its answer makes all before it durable too: no disk has to be worse. */
  write(offset: number, data: Buffer, fua: boolean): void {
    this.#check();
    this.onRequest?.();
    this.#check();
    data.copy(this.#now, offset);
    this.#unflushed.push({ offset, data: Buffer.from(data) });
    this.changes += 1;
    if (fua) this.#settle();
  }

  trim(offset: number, length: number, fua: boolean): void {
    this.write(offset, Buffer.alloc(length), fua);
  }

  writeZeroes(offset: number, length: number, fua: boolean): void {
    this.write(offset, Buffer.alloc(length), fua);
  }

  flush(): void {
    this.#check();
    this.onRequest?.();
    this.#check();
    this.#settle();
    this.flushes += 1;
  }

  cache(): void {}

  extents(offset: number, length: number): Extent[] {
    return allData(offset, length);
  }

  resize(): never {
    throw new BlockError('ENOTSUP', 'this disk keeps its size');
  }

  async close(): Promise<void> {}

  #settle(): void {
    for (const { offset, data } of this.#unflushed) data.copy(this.#medium, offset);
    this.#unflushed = [];
  }

  #check(): void {
    if (!this.#isOn) throw new BlockError('EIO', 'the disk has no power');
  }
}

function tear(data: Buffer, medium: Buffer, offset: number, random: () => number): void {
  for (let at = 0; at < data.length; at += SECTOR_BYTES) {
    if (random() < 0.5) data.copy(medium, offset + at, at, at + SECTOR_BYTES);
  }
}
