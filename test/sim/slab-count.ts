// Counts the pooled buffers of one run. Those of killed processes go back to the pool at its end, as the memory of a
// process does, so that the next run finds the pool as this one did.
import { type Slab, sharedPool } from '../../src/base/buffer-pool.ts';

export class SlabCount {
  readonly #slabs = new Set<Slab>();

  constructor() {
    const acquire = sharedPool.acquire.bind(sharedPool);
    sharedPool.acquire = (minBytes) => {
      const slab = acquire(minBytes);
      this.#slabs.add(slab);
      return slab;
    };
  }

  /** Buffers that somebody holds. */
  get held(): number {
    let count = 0;
    for (const slab of this.#slabs) if (slab.references > 0) count += 1;
    return count;
  }

  end(): void {
    // The method of the class shows again.
    Reflect.deleteProperty(sharedPool, 'acquire');
    for (const slab of this.#slabs) while (slab.references > 0) slab.release();
  }
}
