// The content of a simulated file that is written in place: what a process reads, and what of it is on the medium. A
// power cut leaves of each sector that was not synced the new or the old, or, where the file was longer than it had ever
// been synced, a torn one, zeroes, or what a file that was removed had left there.
import { SECTOR } from './sectors.ts';

/** Of the sectors that were never on the medium so many are torn. */
const TORN_SHARE = 0.1;

export class SimBlocks {
  /** As a process sees it; bytes beyond the size are zeroes. */
  #now = Buffer.alloc(0);
  #sizeBytes = 0;
  #durable = Buffer.alloc(0);
  #durableBytes = 0;
  /** Sectors that were written since they were synced. */
  readonly #unsynced = new Set<number>();
  /** Sectors that a sync could not write: they look as if they were written, and no later sync makes them durable. */
  readonly #forgotten = new Set<number>();
  /** What lies where the file is going to be. */
  readonly #leftBehind: Buffer | undefined;

  constructor(leftBehind: Buffer | undefined) {
    this.#leftBehind = leftBehind;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Nothing is left that a power cut could change. */
  get isSettled(): boolean {
    return this.#unsynced.size + this.#forgotten.size === 0 && this.#sizeBytes === this.#durableBytes;
  }

  get bytes(): Buffer {
    return this.#now.subarray(0, this.#sizeBytes);
  }

  read(position: number, target: Buffer): number {
    return position < this.#sizeBytes ? this.#now.copy(target, 0, position, this.#sizeBytes) : 0;
  }

  write(position: number, data: Buffer): void {
    const end = position + data.length;
    this.#now = grown(this.#now, end);
    data.copy(this.#now, position);
    this.#sizeBytes = Math.max(this.#sizeBytes, end);
    for (let sector = Math.floor(position / SECTOR); sector * SECTOR < end; sector += 1) {
      this.#unsynced.add(sector);
      this.#forgotten.delete(sector);
    }
  }

  truncate(sizeBytes: number): void {
    this.#now = grown(this.#now, sizeBytes);
    this.#now.fill(0, sizeBytes);
    this.#sizeBytes = sizeBytes;
    for (const sectors of [this.#unsynced, this.#forgotten]) {
      for (const sector of sectors) if (sector * SECTOR >= sizeBytes) sectors.delete(sector);
    }
  }

  sync(): void {
    this.#durable = grown(this.#durable, this.#now.length);
    for (const sector of this.#unsynced) copySector(this.#now, this.#durable, sector);
    this.#unsynced.clear();
    this.#durable.fill(0, this.#sizeBytes);
    this.#durableBytes = this.#sizeBytes;
  }

  /** The disk does not take it, and the kernel calls it clean. */
  syncFails(): void {
    for (const sector of this.#unsynced) this.#forgotten.add(sector);
    this.#unsynced.clear();
  }

  /** The kernel needs memory: what it calls clean is read from the medium again, now or later. */
  forget(random: () => number): void {
    for (const sector of this.#forgotten) {
      if (random() < 0.5) continue;
      this.#durable = grown(this.#durable, this.#now.length);
      copySector(this.#durable, this.#now, sector);
      this.#forgotten.delete(sector);
    }
  }

  powerCut(random: () => number): void {
    const size = this.#sizeAfterPowerCut(random);
    const keep = random();
    const left = grown(Buffer.from(this.#durable), Math.max(size, this.#now.length));
    const end = Math.ceil(Math.max(size, this.#sizeBytes) / SECTOR);
    for (let sector = 0; sector < end; sector += 1) {
      const isNew = sector * SECTOR >= this.#durableBytes;
      const mayBe = this.#unsynced.has(sector);
      if (mayBe && random() < keep) copySector(this.#now, left, sector);
      else if (isNew) this.#fillNew(left, sector, mayBe, random);
    }
    this.#now = left.fill(0, size);
    this.#sizeBytes = size;
    this.#settle();
  }

  /** As it would be after a restart that loses nothing. */
  copy(): SimBlocks {
    const copy = new SimBlocks(this.#leftBehind);
    copy.#now = Buffer.from(this.#now);
    copy.#sizeBytes = this.#sizeBytes;
    copy.#durable = Buffer.from(this.#durable);
    copy.#durableBytes = this.#durableBytes;
    for (const sector of this.#unsynced) copy.#unsynced.add(sector);
    for (const sector of this.#forgotten) copy.#forgotten.add(sector);
    return copy;
  }

  /** Of somebody who puts a file there: all of it is durable. */
  static of(bytes: Buffer): SimBlocks {
    const blocks = new SimBlocks(undefined);
    blocks.write(0, bytes);
    blocks.sync();
    return blocks;
  }

  #settle(): void {
    this.#durable = Buffer.from(this.#now);
    this.#durableBytes = this.#sizeBytes;
    this.#unsynced.clear();
    this.#forgotten.clear();
  }

  #sizeAfterPowerCut(random: () => number): number {
    const [from, to] = [this.#durableBytes, this.#sizeBytes];
    if (from === to) return to;
    const kind = random();
    if (kind < 0.4) return from;
    if (kind < 0.8 || to < from) return to;
    return from + SECTOR * Math.floor((random() * (to - from)) / SECTOR);
  }

  /** A sector that was never synced, and is not what was written. */
  #fillNew(left: Buffer, sector: number, mayBe: boolean, random: () => number): void {
    const at = sector * SECTOR;
    left.fill(0, at, at + SECTOR);
    if (random() < 0.5) this.#leftBehind?.subarray(at, at + SECTOR).copy(left, at);
    if (mayBe && random() < TORN_SHARE) this.#now.copy(left, at, at, at + 8 * Math.floor(random() * 64));
  }
}

function grown(bytes: Buffer, length: number): Buffer<ArrayBuffer> {
  if (bytes.length >= length) return bytes as Buffer<ArrayBuffer>;
  const larger = Buffer.alloc(Math.max(length, 2 * bytes.length));
  bytes.copy(larger);
  return larger;
}

function copySector(from: Buffer, to: Buffer, sector: number): void {
  from.copy(to, sector * SECTOR, sector * SECTOR, (sector + 1) * SECTOR);
}
