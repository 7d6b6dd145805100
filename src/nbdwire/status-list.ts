// What one BLOCK_STATUS told of a range, cut to it and with equal neighbours merged. Bounded: behind the last that
// there is room for, nothing is known.

/** Extents of one answer that are kept. */
export const MAX_STATUS_EXTENTS = 16_384;

export class StatusList {
  readonly #lengths: number[] = [];
  readonly #flags: number[] = [];
  #wanted = 0;
  #known = 0;
  #full = false;

  /** Begins anew. @param length of the range that is asked for, bytes */
  reset(length: number): void {
    this.#lengths.length = 0;
    this.#flags.length = 0;
    this.#wanted = length;
    this.#known = 0;
    this.#full = false;
  }

  /** How many extents there are. */
  get count(): number {
    return this.#lengths.length;
  }

  /** Bytes from the range's start that are known. */
  get knownBytes(): number {
    return this.#known;
  }

  /** Length of an extent, bytes; more than 0. */
  lengthOf(index: number): number {
    return this.#lengths[index]!;
  }

  /** NBD_STATE_... of an extent. */
  flagsOf(index: number): number {
    return this.#flags[index]!;
  }

  /** Adds what follows; anything behind the range is left out. @param length bytes, more than 0 */
  add(length: number, flags: number): void {
    const cut = Math.min(length, this.#wanted - this.#known);
    if (cut <= 0 || this.#full) return;
    const last = this.#lengths.length - 1;
    if (last >= 0 && this.#flags[last] === flags) this.#lengths[last]! += cut;
    else if (last + 1 < MAX_STATUS_EXTENTS) {
      this.#lengths.push(cut);
      this.#flags.push(flags);
    } else {
      this.#full = true;
      return;
    }
    this.#known += cut;
  }
}
