// Tells the allocation of a disk file by SEEK_DATA and SEEK_HOLE. Advisory: whatever it can't find out is data, and
// a hole is only told where the file system said so. It must come to an end on any file, and must not hold up the
// event loop longer than a few dozen system calls.
import type { MaybePromise } from '../base/maybe.ts';
import type { NativeCalls } from '../base/native-calls.ts';
import { allData, type Extent } from './block-device.ts';
import { ExtentList, MAX_EXTENTS } from './extent-list.ts';
import { SyncBudget } from './sync-budget.ts';

/** Seeks in place before others get their turn. */
const SEEKS_PER_TURN = 64;

/** One answer takes no longer than this, unless its first extent does; what was not looked at is told as unknown. Milliseconds. */
const MAX_WALK_MS = 250;

export type SeekCalls = Pick<NativeCalls, 'seek' | 'seekSync'>;

export interface FileExtentsOptions {
  readonly fd: number;
  readonly native: SeekCalls;
  /** A clock in milliseconds, for tests. */
  readonly now?: (() => number) | undefined;
}

export class FileExtents {
  readonly #fd: number;
  readonly #native: SeekCalls;
  readonly #now: () => number;
  readonly #budget: SyncBudget;
  /** The data found last: looking for its end again may mean a walk over every block of the file. */
  #dataStart = 0;
  #dataEnd = 0;
  /** Counts what may have turned data into holes. */
  #epoch = 0;

  constructor(options: FileExtentsOptions) {
    this.#fd = options.fd;
    this.#native = options.native;
    this.#now = options.now ?? (() => performance.now());
    this.#budget = new SyncBudget(this.#now);
  }

  /** Data may have become holes. */
  forget(): void {
    this.#epoch += 1;
    this.#dataEnd = this.#dataStart;
  }

  /**
   * The extents of [offset, offset + length).
   * Moves the descriptor's file position, which positional I/O doesn't use.
   */
  extents(offset: number, length: number, maxExtents = MAX_EXTENTS): MaybePromise<Extent[]> {
    if (length === 0) return [];
    const walk = new Walk(offset, length, Math.min(maxExtents, MAX_EXTENTS));
    if (this.#walkInPlace(walk)) return walk.finish();
    return this.#walkOn(walk);
  }

  /** @returns false when others should get their turn first, or the thread pool should do it */
  #walkInPlace(walk: Walk): boolean {
    const budget = this.#budget;
    for (let seeks = 0; seeks < SEEKS_PER_TURN; seeks += 1) {
      this.#useKnown(walk);
      if (walk.isOver) return true;
      if (!budget.maySync()) return false;
      const startedAt = budget.start();
      const found = this.#native.seekSync(this.#fd, walk.at, walk.wanted);
      budget.finish(startedAt, 0);
      this.#take(walk, found);
    }
    return walk.isOver;
  }

  async #walkOn(walk: Walk): Promise<Extent[]> {
    const endsAt = this.#now() + MAX_WALK_MS;
    // Whoever asks again about what is unknown must get on: one extent is found, however long that takes.
    while (!walk.isOver && (walk.isEmpty || this.#now() < endsAt)) {
      const epoch = this.#epoch;
      const startedAt = this.#budget.startInPool();
      const found = await this.#native.seek(this.#fd, walk.at, walk.wanted);
      this.#budget.finishInPool(startedAt, 0);
      this.#take(walk, found, epoch);
      if (this.#walkInPlace(walk)) break;
    }
    return walk.finish();
  }

  #useKnown(walk: Walk): void {
    const { at } = walk;
    if (walk.wanted === 'data' && at >= this.#dataStart && at < this.#dataEnd) walk.skipData(this.#dataEnd);
  }

  #take(walk: Walk, found: number | undefined, epoch = this.#epoch): void {
    const { at } = walk;
    if (walk.wanted === 'hole' && found !== undefined && found > at && epoch === this.#epoch) {
      if (at !== this.#dataEnd) this.#dataStart = at;
      this.#dataEnd = found;
    }
    walk.take(found);
  }
}

/** One answer in the making: which seek is next, and what the last one means. */
class Walk {
  readonly #list: ExtentList;
  readonly #offset: number;
  readonly #length: number;
  readonly #maxExtents: number;
  #lost = false;
  /** What to look for at {@link at}. */
  wanted: 'data' | 'hole' = 'data';

  constructor(offset: number, length: number, maxExtents: number) {
    this.#offset = offset;
    this.#length = length;
    this.#maxExtents = maxExtents;
    this.#list = new ExtentList(offset, length);
  }

  get at(): number {
    return this.#list.at;
  }

  get isEmpty(): boolean {
    return this.#list.count === 0;
  }

  get isOver(): boolean {
    return this.#lost || this.#list.isWhole || this.#list.count >= this.#maxExtents;
  }

  /** Everything up to `end` is data. */
  skipData(end: number): void {
    this.#list.addUntil(end, false, false);
  }

  /** @param found where that begins; -1 for no more data; undefined when the file system can't tell */
  take(found: number | undefined): void {
    if (this.wanted === 'data' && found !== undefined) {
      this.#list.addUntil(found === -1 ? this.#offset + this.#length : found, true, true);
      this.wanted = 'hole';
    } else if (this.wanted === 'hole' && found !== undefined && found > this.at) {
      this.skipData(found);
      this.wanted = 'data';
    } else {
      this.#lost = true;
    }
  }

  finish(): Extent[] {
    // One that can't tell is a file of data. One that was not looked at to its end may yet be asked about the rest.
    if (this.#lost) this.skipData(this.#offset + this.#length);
    return this.#list.count === 0 ? allData(this.#offset, this.#length) : this.#list.giveUp();
  }
}
