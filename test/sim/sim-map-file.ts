// The file of a dirty map on a simulated machine: what a process wrote is the kernel's at once, and on the medium only
// after a sync, or by chance. A power cut mixes the two, sector by sector.
import type { SidecarFile } from '../../src/repagent/sidecar-file.ts';
import type { Clock } from './clock.ts';
import { SECTOR } from './sectors.ts';
import { coded } from './sim-socket.ts';

export interface MapCopy {
  readonly bytes: Buffer;
  readonly touchedAtMs: number;
}

export class SimMapFile {
  exists = false;
  /** What a process reads, and what is on the medium for sure. */
  now: Buffer = Buffer.alloc(0);
  durable: Buffer = Buffer.alloc(0);
  touchedAtMs = 0;
  /** So many of the next writes and syncs fail, and whether the file can't even be emptied then. */
  failWrites = 0;
  failSyncs = 0;
  failCode = 'EIO';
  /** Syncs that are not answered, and whether the first since the file was opened has succeeded, or a later try. */
  syncing = 0;
  hasSynced = false;
  /** Grows with everything that changes. */
  version = 0;
  /** Told after each change: a process may be killed there. */
  changed: () => void = () => {};
  readonly #clock: Clock;
  readonly #random: () => number;
  #syncs = 0;
  #first = 1;
  #synced = 0;
  #durableTouchedAtMs = 0;

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock;
    this.#random = random;
  }

  /** For one process. */
  open(): SidecarFile {
    const { exists } = this;
    this.syncing = 0;
    this.hasSynced = false;
    this.#first = this.#syncs + 1;
    this.exists = true;
    return new OpenMapFile(this, exists);
  }

  write(data: Buffer, position: number): void {
    if (this.failWrites > 0) {
      this.failWrites -= 1;
      throw coded(this.failCode);
    }
    if (position + data.length > this.now.length) this.resize(position + data.length);
    data.copy(this.now, position);
    this.touch();
    // The kernel writes back what it likes, when it likes.
    if (this.#random() < 0.1 && this.durable.length === this.now.length) {
      this.now.copy(this.durable, position, position, position + data.length);
    }
    this.#tell();
  }

  resize(sizeBytes: number): void {
    const bytes = Buffer.alloc(sizeBytes);
    this.now.copy(bytes);
    this.now = bytes;
    this.touch();
    this.#tell();
  }

  touch(atMs = this.#clock.wallMs()): void {
    this.touchedAtMs = atMs;
    // Told: when it was touched counts as much as what it holds.
    this.#tell();
  }

  sync(): Promise<void> {
    const fails = this.failSyncs > 0;
    if (fails) this.failSyncs -= 1;
    const covered = Buffer.from(this.now);
    const { touchedAtMs } = this;
    const { host } = this.#clock;
    this.syncing += 1;
    this.#syncs += 1;
    const turn = this.#syncs;
    return new Promise((resolve, reject) => {
      this.#clock.after(0.01 + this.#random() ** 3 * 5, host, () => {
        this.syncing -= 1;
        if (fails) {
          if (turn === this.#first) this.#first = this.#syncs + 1;
          return reject(coded(this.failCode));
        }
        if (turn === this.#first) this.hasSynced = true;
        this.#isDurable(turn, covered, touchedAtMs);
        resolve();
      });
    });
  }

  syncNow(): void {
    if (this.failSyncs > 0) {
      this.failSyncs -= 1;
      throw coded(this.failCode);
    }
    this.#syncs += 1;
    this.#isDurable(this.#syncs, Buffer.from(this.now), this.touchedAtMs);
  }

  /** What a process would find that starts now. Read only. */
  view(bytes = this.now): SidecarFile {
    const { exists, touchedAtMs } = this;
    const write = (): never => {
      throw new Error('this is only looked at');
    };
    return {
      existed: exists,
      sizeBytes: bytes.length,
      touchedAtMs,
      read: (position, length) => bytes.subarray(position, position + length),
      write,
      extend: write,
      empty: write,
      touch: write,
      sync: write,
      syncNow: write,
      close: write,
    };
  }

  /** The least that a power cut may leave of what was set: a bit counts only where both have it. With each head. */
  worst(bitsOffset: number): Buffer[] {
    const { now, durable } = this;
    const mixtures: Buffer[] = [];
    for (const size of new Set([now.length, durable.length])) {
      for (let heads = 0; heads < 4; heads += 1) {
        const mixture = Buffer.alloc(size);
        this.#mix(mixture, 0, bitsOffset / 2, heads % 2 === 0);
        this.#mix(mixture, bitsOffset / 2, bitsOffset, heads < 2);
        this.#mix(mixture, bitsOffset, size, true);
        const both = Math.min(now.length, durable.length);
        for (let at = bitsOffset; at < both; at += 1) {
          if (mixture[at] !== 0) mixture[at] = mixture[at]! & durable[at]!;
        }
        // What was not there before the file grew is not set.
        if (size > durable.length) mixture.fill(0, Math.max(bitsOffset, durable.length));
        if (!mixtures.some((other) => other.equals(mixture))) mixtures.push(mixture);
      }
    }
    return mixtures;
  }

  powerCut(): void {
    if (this.#random() < 0.5 && this.durable.length === 0 && this.now.length > 0) this.exists = false;
    const bytes = Buffer.alloc(this.#random() < 0.5 ? this.now.length : this.durable.length);
    for (let at = 0; at < bytes.length; at += SECTOR) this.#mix(bytes, at, at + SECTOR, this.#random() < 0.5);
    this.now = this.exists ? bytes : Buffer.alloc(0);
    this.#synced = this.#syncs;
    // When it was written may be on the medium before what was written, or after.
    if (this.#random() < 0.5) this.touchedAtMs = this.#durableTouchedAtMs;
    this.#durableTouchedAtMs = this.touchedAtMs;
    this.durable = Buffer.from(this.now);
    this.#tell();
  }

  /** What is on the medium there after a power cut: what was written, or what was before. A file grows with zeroes. */
  #mix(bytes: Buffer, from: number, end: number, isNew: boolean): void {
    // Where the file was cut off and is not, everything is as it was before.
    const source =
      isNew && (from < this.now.length || bytes.length > this.durable.length) ? this.now : this.durable;
    if (from < source.length) source.copy(bytes, from, from, Math.min(end, bytes.length));
  }

  copy(): MapCopy {
    return { bytes: Buffer.from(this.now), touchedAtMs: this.touchedAtMs };
  }

  /** Somebody puts an older copy in its place, with its times. */
  restore({ bytes, touchedAtMs }: MapCopy): void {
    this.exists = true;
    this.#synced = this.#syncs;
    this.now = Buffer.from(bytes);
    this.durable = Buffer.from(bytes);
    this.touchedAtMs = touchedAtMs;
    this.#durableTouchedAtMs = touchedAtMs;
    this.#tell();
  }

  /** Unless a sync that began later has made more durable. */
  #isDurable(turn: number, bytes: Buffer, touchedAtMs: number): void {
    if (turn <= this.#synced) return;
    this.#synced = turn;
    this.durable = bytes;
    this.#durableTouchedAtMs = touchedAtMs;
    this.version += 1;
  }

  #tell(): void {
    this.version += 1;
    this.changed();
  }
}

class OpenMapFile implements SidecarFile {
  readonly existed: boolean;
  readonly #file: SimMapFile;

  constructor(file: SimMapFile, existed: boolean) {
    this.#file = file;
    this.existed = existed;
  }

  get sizeBytes(): number {
    return this.#file.now.length;
  }

  get touchedAtMs(): number {
    return this.#file.touchedAtMs;
  }

  read(position: number, length: number): Buffer {
    return Buffer.from(this.#file.now.subarray(position, position + length));
  }

  write(data: Buffer, position: number): void {
    this.#file.write(data, position);
  }

  extend(sizeBytes: number): void {
    if (sizeBytes > this.sizeBytes) this.#file.resize(sizeBytes);
  }

  empty(): void {
    this.#file.resize(0);
  }

  touch(atMs?: number): void {
    this.#file.touch(atMs);
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  syncNow(): void {
    this.#file.syncNow();
  }

  close(): void {}
}
