// Remembers every change of a disk in the order in which it took effect, and checks that a replica is, at the moments
// at which it claims to be consistent, the disk as it was at some moment, and never at an earlier one than before.
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';

interface Change {
  readonly offset: number;
  readonly data: Buffer;
}

/** Directly under the mirror. `raw` is the disk itself, read at once. */
export class TruthDevice extends PassThrough {
  readonly changes: Change[] = [];
  readonly #raw: BlockDevice;

  constructor(below: BlockDevice, raw: BlockDevice) {
    super(below);
    this.#raw = raw;
  }

  /** The disk as it is now. */
  content(): Buffer {
    return this.#look(0, this.sizeBytes);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#note(offset, data.length, () => super.write(offset, data, fua));
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#note(offset, length, () => super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#note(offset, length, () => super.writeZeroes(offset, length, fua, mayTrim));
  }

  /** A change that failed may have changed anything of its range. */
  #note(offset: number, length: number, run: () => MaybePromise<void>): MaybePromise<void> {
    const note = (): void => {
      this.changes.push({ offset, data: this.#look(offset, length) });
    };
    let result: MaybePromise<void>;
    try {
      result = run();
    } catch (error) {
      note();
      throw error;
    }
    if (!(result instanceof Promise)) return note();
    return result.then(note, (error: unknown) => {
      note();
      throw error;
    });
  }

  #look(offset: number, length: number): Buffer {
    const data = Buffer.alloc(length);
    if (this.#raw.read(offset, data) instanceof Promise) throw new Error('the raw disk must answer at once');
    return data;
  }
}

const SECTOR = 512;

/** Compares a replica with the history of its volume, sector by sector, as both move on. */
export class PrefixCheck {
  readonly #truth: TruthDevice;
  readonly #past: Buffer;
  readonly #replica: Buffer;
  readonly #differing = new Set<number>();
  #next = 0;
  /** How often it was checked. */
  checks = 0;

  constructor(truth: TruthDevice, replica: Buffer) {
    this.#truth = truth;
    this.#past = truth.content();
    this.#replica = replica;
    this.replicaChanged(0, replica.length);
  }

  replicaChanged(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += SECTOR) {
      const same = this.#past.compare(this.#replica, at, at + SECTOR, at, at + SECTOR) === 0;
      if (same) this.#differing.delete(at);
      else this.#differing.add(at);
    }
  }

  /** The replica claims to be consistent. @returns what is wrong, or undefined */
  check(): string | undefined {
    this.checks += 1;
    const from = this.#next;
    while (this.#differing.size > 0) {
      const change = this.#truth.changes[this.#next];
      if (!change) {
        const sectors = [...this.#differing].slice(0, 5).map((at) => at / SECTOR);
        return `the replica is no moment of its disk since change ${from}: sectors ${sectors.join(', ')} of ${this.#differing.size} differ`;
      }
      change.data.copy(this.#past, change.offset);
      this.#next += 1;
      this.replicaChanged(change.offset, change.data.length);
    }
    return undefined;
  }
}
