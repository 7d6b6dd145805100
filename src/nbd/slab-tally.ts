// Adds up the slabs that one connection holds: those in which requests wait for the device, and those whose replies
// the client has not taken. Each counts once and whole, since a slab is kept for one byte as for all of it.
import type { Slab } from '../base/buffer-pool.ts';

export class SlabTally {
  #bytes = 0;

  /** Bytes of all slabs held. */
  get bytes(): number {
    return this.#bytes;
  }

  /** One more use of a slab that this connection acquired. */
  add(slab: Slab): void {
    if (slab.uses === 0) this.#bytes += slab.bytes.length;
    slab.uses += 1;
  }

  /** Ends one use, before the reference is released. */
  remove(slab: Slab): void {
    slab.uses -= 1;
    if (slab.uses === 0) this.#bytes -= slab.bytes.length;
  }
}
