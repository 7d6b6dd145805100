// filter cow: changes go to a scratch overlay, and are forgotten when the export is closed. The disk below is only ever
// read. The overlay knows whole blocks; the align filter on top makes everything finer whole, and keeps order.
import { BlockError } from '../base/errors.ts';
import { KiB, MAX_DISK_BYTES } from '../base/limits.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';
import { ExtentList, MAX_EXTENTS } from '../blockdev/extent-list.ts';
import { AlignFilter } from './align-filter.ts';
import type { FilterStatus } from './context.ts';
import { BELOW, type BlockState, CowBlocks, SCRATCH, ZERO } from './cow-blocks.ts';
import { openScratch, type Scratch } from './cow-scratch.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import { PassThrough } from './pass-through.ts';

/** Of the scratch, bytes: what guests mostly write at once, so that a write seldom has to read. */
const BLOCK_BYTES = 4 * KiB;

/** How often one answer about extents asks the disk below, which holds the event loop while it looks. */
const MAX_QUERIES = 128;

export const cowFilter = defineFilter({
  name: 'cow',
  summary: 'Keeps changes in a scratch overlay and leaves the disk below untouched',
  options: {
    file: {
      kind: 'string',
      description: 'a scratch file to be made, and removed at the end; a temporary one unless given',
    },
    memory: { kind: 'boolean', default: false, description: 'keep the overlay in memory, not in a file' },
    limit: {
      kind: 'size',
      min: BLOCK_BYTES,
      max: MAX_DISK_BYTES,
      description:
        'how much data the overlay may hold before changes fail with ENOSPC; no limit unless given',
    },
  },
  examples: [
    { spec: 'cow', text: 'Whatever a guest does is gone when the export is closed' },
    { spec: 'cow,memory,limit=512M', text: 'At most 512 MiB of changes, in memory' },
  ],
  async create(below, { file, memory, limit = MAX_DISK_BYTES }, { logger }) {
    const blockBytes = Math.max(BLOCK_BYTES, below.limits.minBlockBytes);
    const { sizeBytes } = below;
    const scratch = await openScratch({ sizeBytes, blockBytes, inMemory: memory, file, logger });
    const overlay = new CowDevice(below, scratch, blockBytes, Math.floor(limit / blockBytes));
    return new CowFilter(overlay, blockBytes);
  },
});

/** The overlay for requests of any bytes. */
class CowFilter extends AlignFilter {
  readonly #overlay: CowDevice;

  constructor(overlay: CowDevice, blockBytes: number) {
    super(overlay, blockBytes);
    this.#overlay = overlay;
  }

  status(): FilterStatus {
    return this.#overlay.status();
  }
}

class CowDevice extends PassThrough {
  readonly #scratch: Scratch;
  readonly #blockBytes: number;
  readonly #maxBlocks: number;
  readonly #limits: DerivedLimits;
  readonly #blocks = new CowBlocks();
  /** Blocks for which changes in flight have reserved room. */
  #reserved = 0;
  #refused = 0;
  #sizeBytes: number;

  constructor(below: BlockDevice, scratch: Scratch, blockBytes: number, maxBlocks: number) {
    super(below);
    this.#scratch = scratch;
    this.#blockBytes = blockBytes;
    this.#maxBlocks = maxBlocks;
    this.#sizeBytes = below.sizeBytes;
    // Zeroes that may be a hole cost nothing but at the edges, where a block is read and written.
    this.#limits = new DerivedLimits(below, () => ({
      readOnly: false,
      minBlockBytes: blockBytes,
      fastZero: 'holes',
    }));
  }

  override get sizeBytes(): number {
    return this.#sizeBytes;
  }

  override get limits(): DeviceLimits {
    return this.#limits.current;
  }

  status(): FilterStatus {
    const { scratchBlocks } = this.#blocks;
    return {
      scratchBytes: scratchBlocks * this.#blockBytes,
      limitBytes: this.#maxBlocks * this.#blockBytes,
      refused: this.#refused,
    };
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#inRuns(offset, target.length, (state, from, to) => {
      const part = target.subarray(from - offset, to - offset);
      if (state === SCRATCH) return this.#scratch.device.read(from, part);
      if (state === ZERO) return void part.fill(0);
      return this.#readBelow(from, part);
    });
  }

  override write(offset: number, data: Buffer, _fua: boolean): MaybePromise<void> {
    return this.#fill(offset, data.length, () => this.#scratch.device.write(offset, data, false));
  }

  override trim(offset: number, length: number, _fua: boolean): MaybePromise<void> {
    const [from, to] = this.#span(offset, length);
    const set = (): void => this.#blocks.set(from, to, ZERO);
    if (this.#blocks.countOutside(from, to) === to - from) return set();
    return andThen(this.#scratch.device.trim(offset, length, false), set);
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    if (mayTrim) return this.trim(offset, length, fua);
    return this.#fill(offset, length, () => this.#scratch.device.writeZeroes(offset, length, false, false));
  }

  /** What is to be forgotten needs not be durable. */
  override flush(): MaybePromise<void> {
    return undefined;
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    const end = Math.min(offset + length, this.below.sizeBytes);
    return offset < end ? this.below.cache(offset, end - offset) : undefined;
  }

  override extents(offset: number, length: number, maxExtents = MAX_EXTENTS): MaybePromise<Extent[]> {
    const list = new ExtentList(offset, length);
    const told = this.#tell(list, offset + length, Math.min(maxExtents, MAX_EXTENTS), MAX_QUERIES);
    return andThen(told, () => list.giveUp());
  }

  /** The overlay grows; the disk below does not. */
  override resize(sizeBytes: number): MaybePromise<void> {
    return andThen(this.#scratch.device.resize(sizeBytes), () => {
      this.#sizeBytes = sizeBytes;
    });
  }

  override async close(): Promise<void> {
    try {
      await this.#scratch.discard();
    } finally {
      await super.close();
    }
  }

  /** Goes on with the list until it is whole, long enough, or the disk below was asked `queries` times. */
  #tell(list: ExtentList, end: number, most: number, queries: number): MaybePromise<void> {
    let left = queries;
    while (!list.isWhole && list.count <= most) {
      const at = list.at;
      const [state, to] = this.#runAt(at, end);
      const bottom = Math.min(to, this.below.sizeBytes);
      if (state !== BELOW || at >= bottom) {
        list.addUntil(to, state !== SCRATCH, state !== SCRATCH);
        continue;
      }
      if (left === 0) return;
      left -= 1;
      const found = this.below.extents(at, bottom - at, most);
      if (found instanceof Promise) {
        return found.then((extents) =>
          list.addKnown(extents) ? this.#tell(list, end, most, left) : undefined,
        );
      }
      if (!list.addKnown(found)) return;
    }
  }

  #readBelow(offset: number, target: Buffer): MaybePromise<void> {
    const there = Math.max(0, Math.min(target.length, this.below.sizeBytes - offset));
    target.fill(0, there);
    return there > 0 ? this.below.read(offset, target.subarray(0, there)) : undefined;
  }

  /** Has whole blocks written to the scratch, which count as changed when that is done, and not before. */
  #fill(offset: number, length: number, write: () => MaybePromise<void>): MaybePromise<void> {
    const [from, to] = this.#span(offset, length);
    const added = this.#blocks.countOutside(from, to);
    if (this.#blocks.scratchBlocks + this.#reserved + added > this.#maxBlocks) {
      this.#refused += 1;
      throw new BlockError(
        'ENOSPC',
        `the overlay is full: it may hold ${this.#maxBlocks * this.#blockBytes} bytes`,
      );
    }
    const result = write();
    if (!(result instanceof Promise)) return this.#blocks.set(from, to, SCRATCH);
    this.#reserved += added;
    return result.then(
      () => {
        this.#reserved -= added;
        this.#blocks.set(from, to, SCRATCH);
      },
      (error: unknown) => {
        this.#reserved -= added;
        throw error;
      },
    );
  }

  /** Calls `use` for each run of one state, in order; stays synchronous as long as the answers are. */
  #inRuns(
    offset: number,
    length: number,
    use: (state: BlockState, from: number, to: number) => MaybePromise<void>,
  ): MaybePromise<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const [state, to] = this.#runAt(at, end);
      const result = use(state, at, to);
      if (result instanceof Promise) return result.then(() => this.#inRuns(to, end - to, use));
      at = to;
    }
  }

  /** How the blocks from `at` on are, and where, up to `end`, that changes. Bytes. */
  #runAt(at: number, end: number): readonly [BlockState, number] {
    const block = Math.floor(at / this.#blockBytes);
    const to = this.#blocks.runEnd(block, Math.ceil(end / this.#blockBytes)) * this.#blockBytes;
    return [this.#blocks.get(block), Math.min(end, to)];
  }

  /** The blocks of a range, which begins on the border of one and ends on one, or at the end of the disk. */
  #span(offset: number, length: number): readonly [number, number] {
    return [Math.floor(offset / this.#blockBytes), Math.ceil((offset + length) / this.#blockBytes)];
  }
}
