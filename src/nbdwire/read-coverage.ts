// Which bytes of a READ have been delivered by chunks that may come in any order. Must never count a byte twice, nor
// let a server take memory by its choice of pieces.
import { WireError } from '../wire/struct.ts';

/** Pieces apart from each other that are kept track of. Servers that answer in order need none. */
export const MAX_ISLANDS = 4096;

export class ReadCoverage {
  #start = 0;
  #end = 0;
  /** Everything before this has been delivered. */
  #prefix = 0;
  /** What was delivered beyond it: start, end, start, end, ... in order; none touch. */
  readonly #islands: number[] = [];

  /** Begins anew. @param offset bytes @param length bytes: of the READ */
  reset(offset: number, length: number): void {
    this.#start = offset;
    this.#end = offset + length;
    this.#prefix = offset;
    if (this.#islands.length > 0) this.#islands.length = 0;
  }

  get complete(): boolean {
    return this.#prefix === this.#end;
  }

  /** @throws WireError when the piece is empty, not all inside of the READ, or was delivered before */
  add(offset: number, length: number): void {
    if (length === 0) throw new WireError('a chunk of no bytes');
    if (offset < this.#start || offset > this.#end || length > this.#end - offset) {
      throw new WireError(
        `a chunk of ${length} bytes at ${offset}, outside of what was asked (${this.#start} to ${this.#end})`,
      );
    }
    if (offset === this.#prefix && this.#islands.length === 0) {
      this.#prefix += length;
      return;
    }
    this.#insert(offset, offset + length);
    while (this.#islands[0] === this.#prefix) {
      this.#prefix = this.#islands[1]!;
      this.#islands.splice(0, 2);
    }
  }

  #insert(start: number, end: number): void {
    const islands = this.#islands;
    const at = this.#firstAfter(start);
    const before = at === 0 ? this.#prefix : islands[at - 1]!;
    const after = islands[at] ?? this.#end;
    if (start < before || end > after) {
      throw new WireError(`a chunk of ${end - start} bytes at ${start}, of which some were delivered before`);
    }
    const joinsBefore = at > 0 && islands[at - 1] === start;
    const joinsAfter = at < islands.length && islands[at] === end;
    if (joinsBefore && joinsAfter) islands.splice(at - 1, 2);
    else if (joinsBefore) islands[at - 1] = end;
    else if (joinsAfter) islands[at] = start;
    else {
      if (islands.length >= 2 * MAX_ISLANDS) {
        throw new WireError(`a READ answered in more than ${MAX_ISLANDS} pieces that lie apart`);
      }
      islands.splice(at, 0, start, end);
    }
  }

  /** Index of the first island that begins at `start` or behind it. */
  #firstAfter(start: number): number {
    let low = 0;
    let high = this.#islands.length / 2;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#islands[2 * middle]! < start) low = middle + 1;
      else high = middle;
    }
    return 2 * low;
  }
}
