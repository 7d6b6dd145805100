// Where each block of an overlay comes from: the disk below, the scratch, or nowhere because it is all zeroes. Costs
// memory only around blocks that were changed, and little for long runs of one state.

/** `below` is the state that blocks begin with. */
export const BELOW = 0;
export const SCRATCH = 1;
export const ZERO = 2;
export type BlockState = typeof BELOW | typeof SCRATCH | typeof ZERO;

/** Blocks a page. */
const PAGE_BLOCKS = 16_384;

export class CowBlocks {
  /** A state for each block, or one for all of them. */
  readonly #pages = new Map<number, Uint8Array | BlockState>();
  #scratchBlocks = 0;

  /** Blocks in the scratch. */
  get scratchBlocks(): number {
    return this.#scratchBlocks;
  }

  get(block: number): BlockState {
    const page = Math.floor(block / PAGE_BLOCKS);
    const states = this.#pages.get(page) ?? BELOW;
    return typeof states === 'number' ? states : (states[block - page * PAGE_BLOCKS] as BlockState);
  }

  /** The end of the run of blocks from `block` that have its state, at most `end`. */
  runEnd(block: number, end: number): number {
    const state = this.get(block);
    let at = block;
    while (at < end) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const pageEnd = Math.min(end, (page + 1) * PAGE_BLOCKS);
      const states = this.#pages.get(page) ?? BELOW;
      if (typeof states === 'number') {
        if (state !== states) return at;
        at = pageEnd;
        continue;
      }
      for (; at < pageEnd; at += 1) if (states[at - page * PAGE_BLOCKS] !== state) return at;
    }
    return end;
  }

  /** How many blocks of [from, to) are not in the scratch. */
  countOutside(from: number, to: number): number {
    let count = 0;
    for (let at = from; at < to; ) {
      const end = this.runEnd(at, to);
      if (this.get(at) !== SCRATCH) count += end - at;
      at = end;
    }
    return count;
  }

  set(from: number, to: number, state: typeof SCRATCH | typeof ZERO): void {
    const before = to - from - this.countOutside(from, to);
    this.#scratchBlocks += (state === SCRATCH ? to - from : 0) - before;
    for (let at = from; at < to; ) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const end = Math.min(to, (page + 1) * PAGE_BLOCKS);
      if (end - at === PAGE_BLOCKS) this.#pages.set(page, state);
      else this.#detailed(page).fill(state, at - page * PAGE_BLOCKS, end - page * PAGE_BLOCKS);
      at = end;
    }
  }

  #detailed(page: number): Uint8Array {
    const states = this.#pages.get(page) ?? BELOW;
    if (typeof states !== 'number') return states;
    const detailed = new Uint8Array(PAGE_BLOCKS).fill(states);
    this.#pages.set(page, detailed);
    return detailed;
  }
}
