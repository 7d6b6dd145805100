// Sees whether anything changed in a range while it was read. Watching must cost a change nothing while nobody watches.

export class RangeWatch {
  readonly offset: number;
  readonly length: number;
  /** A change of the range was begun since the watch began. */
  touched = false;

  constructor(offset: number, length: number) {
    this.offset = offset;
    this.length = length;
  }
}

export class RangeWatches {
  readonly #watches: RangeWatch[] = [];

  /** Whether nobody watches. */
  get isEmpty(): boolean {
    return this.#watches.length === 0;
  }

  /** Begins to watch; {@link end} must follow. */
  begin(offset: number, length: number): RangeWatch {
    const watch = new RangeWatch(offset, length);
    this.#watches.push(watch);
    return watch;
  }

  end(watch: RangeWatch): void {
    const at = this.#watches.indexOf(watch);
    if (at !== -1) this.#watches.splice(at, 1);
  }

  /** A change of the range begins. */
  touch(offset: number, length: number): void {
    for (const watch of this.#watches) {
      if (watch.offset < offset + length && offset < watch.offset + watch.length) watch.touched = true;
    }
  }
}
