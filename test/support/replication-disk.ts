// A disk of memory that keeps the history of its changes together with the stream's position after each, so that a test
// can say what the disk held at any position. It may answer late and out of order, and fail halfway on demand.
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { BlockError } from '../../src/base/errors.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { JumbleDevice } from './jumble-device.ts';

interface Change {
  readonly offset: number;
  readonly data: Buffer;
  /** The stream's newest entry just before and just after the change was made known. */
  before: number;
  after: number;
}

/** The disk's content at one life of the agent, and what happened since. */
export class DiskHistory {
  readonly #base: Buffer;
  readonly #changes: Change[] = [];

  constructor(base: Buffer) {
    this.#base = Buffer.from(base);
  }

  get length(): number {
    return this.#changes.length;
  }

  add(change: Change): void {
    this.#changes.push(change);
  }

  /**
   * Everything that the disk may have been when the stream was at `sequence`: changes that the stream didn't bring
   * are told in one go, so that there may be several.
   * @returns the number of changes that it takes at least, and at most
   */
  span(sequence: number): { least: number; most: number } {
    let least = 0;
    let most = 0;
    this.#changes.forEach((change, i) => {
      if (change.after > change.before && change.after <= sequence) least = i + 1;
    });
    most = least;
    while (most < this.#changes.length && !this.#isIn(most)) most += 1;
    return { least, most };
  }

  /** The content after so many changes. */
  at(count: number): Buffer {
    const disk = Buffer.from(this.#base);
    for (const { offset, data } of this.#changes.slice(0, count)) data.copy(disk, offset);
    return disk;
  }

  /** Whether `sector` held `bytes` after `count` changes or at any time later. */
  heldSince(count: number, sectorOffset: number, bytes: Buffer): boolean {
    return this.#changes
      .slice(count)
      .some(
        ({ offset, data }) =>
          offset <= sectorOffset &&
          offset + data.length >= sectorOffset + bytes.length &&
          data.subarray(sectorOffset - offset, sectorOffset - offset + bytes.length).equals(bytes),
      );
  }

  #isIn(index: number): boolean {
    const { before, after } = this.#changes[index]!;
    return after > before;
  }
}

export interface ReplicationDiskOptions {
  readonly sizeBytes: number;
  /** Seeds the order of answers; null answers at once. */
  readonly jumble: number | null;
  /** The newest entry of the agent's stream. */
  readonly sequence: () => number;
}

/** To be protected by an agent. */
export class ReplicationDisk extends PassThrough {
  readonly #store: BlockDevice;
  readonly #sequence: () => number;
  readonly #random: () => number;
  history: DiskHistory;
  /** How many of the next changes do only their first half and fail. */
  failNext = 0;
  /** How many of the next reads fail. */
  failReads = 0;
  /** Changes that failed on demand. */
  faults = 0;
  #untold: Change | undefined;

  constructor(options: ReplicationDiskOptions) {
    const memory = new MemoryDevice({ sizeBytes: options.sizeBytes, minBlockBytes: 512 });
    super(options.jumble === null ? memory : new JumbleDevice(memory, options.jumble));
    this.#store = memory;
    this.#sequence = options.sequence;
    this.#random = seededRandom(options.jumble ?? 0);
    this.history = new DiskHistory(this.content);
  }

  /** What is on the disk now. */
  get content(): Buffer {
    const bytes = Buffer.alloc(this.#store.sizeBytes);
    void this.#store.read(0, bytes);
    return bytes;
  }

  /** Another life of the agent begins. */
  restart(): void {
    this.history = new DiskHistory(this.content);
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.failReads > 0) {
      this.failReads -= 1;
      throw new BlockError('EIO', 'a read that was to fail');
    }
    return super.read(offset, target);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    const copy = Buffer.from(data);
    return this.#change(offset, copy, (length) => super.write(offset, copy.subarray(0, length), fua));
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change(offset, Buffer.alloc(length), (part) => super.trim(offset, part, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#change(offset, Buffer.alloc(length), (part) =>
      super.writeZeroes(offset, part, fua, mayTrim),
    );
  }

  /** To be called right after a change that was answered at once. */
  told(): void {
    if (this.#untold) this.#untold.after = this.#sequence();
    this.#untold = undefined;
  }

  /** A disk may show a change some time before it says that it's done. */
  async #late(): Promise<void> {
    if (this.#random() < 0.1) await sleep(this.#random() * 12);
    else for (let left = Math.floor(this.#random() * 4); left > 0; left -= 1) await turn();
  }

  #change(offset: number, data: Buffer, run: (length: number) => MaybePromise<void>): MaybePromise<void> {
    const fails = this.failNext > 0;
    if (fails) {
      this.failNext -= 1;
      this.faults += 1;
    }
    const length = fails ? Math.ceil(data.length / 1024) * 512 : data.length;
    const entry: Change = { offset, data: data.subarray(0, length), before: 0, after: 0 };
    const end = (): void => {
      this.history.add(entry);
      entry.before = this.#sequence();
      entry.after = entry.before;
      if (fails) throw new BlockError('EIO', 'a change that was to fail');
    };
    const after = (): void => {
      entry.after = this.#sequence();
    };
    const result = run(length);
    if (!(result instanceof Promise)) {
      this.#untold = entry;
      end();
      return undefined;
    }
    const answer = result.then(() => this.#late()).then(end);
    // Hears of the answer right after the mirror, which asks for it before this microtask.
    queueMicrotask(() => void answer.then(after, after));
    return answer;
  }
}
