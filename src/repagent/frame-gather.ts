// Puts the frames of one turn together: small ones follow each other in pooled memory and leave as one part, since a
// part of its own costs more than the copy; a large payload is sent from where it lies. Memory that the
// kernel has not taken yet is never written to.
import type { Slab, SlabPool } from '../base/buffer-pool.ts';
import { KiB } from '../base/limits.ts';

/** Largest payload that is copied, bytes. */
export const MAX_COPIED_BYTES = 8 * KiB;

/** What small frames are gathered in at a time, bytes. */
export const GATHER_BYTES = 256 * KiB;

export class FrameGather {
  readonly #pool: SlabPool;
  #slab: Slab | undefined;
  /** Of the run that is not a part yet. */
  #start = 0;
  #end = 0;
  /** Whether this turn has put something into the slab. */
  #isUsed = false;
  #parts: Buffer[] = [];
  #slabs: Slab[] = [];

  constructor(pool: SlabPool) {
    this.#pool = pool;
  }

  /** What {@link reserve} gave a place in. */
  get target(): Buffer {
    return this.#slab!.bytes;
  }

  /** Makes a place for the next `bytes`, far fewer than 256 KiB. @returns where it begins in `target` */
  reserve(bytes: number): number {
    if (!this.#slab || this.#end + bytes > this.#slab.bytes.length) this.#renew();
    const slab = this.#slab!;
    if (!this.#isUsed) {
      this.#isUsed = true;
      slab.retain();
      this.#slabs.push(slab);
    }
    const at = this.#end;
    this.#end += bytes;
    return at;
  }

  /** The next bytes are sent from where they lie. */
  addPart(part: Buffer): void {
    this.#closeRun();
    this.#parts.push(part);
  }

  /** Ends the turn. @returns its parts, and the memory to be released once they have left */
  take(): { readonly parts: readonly Buffer[]; readonly slabs: readonly Slab[] } {
    this.#closeRun();
    const turn = { parts: this.#parts, slabs: this.#slabs };
    this.#parts = [];
    this.#slabs = [];
    this.#isUsed = false;
    return turn;
  }

  /** Something has left: memory that nobody else uses begins anew. */
  reuse(): void {
    if (this.#slab?.references !== 1) return;
    this.#start = 0;
    this.#end = 0;
  }

  /** Gives the memory back; what was taken is released by whoever has it. It can be used again. */
  rest(): void {
    for (const slab of this.#slabs.splice(0)) slab.release();
    this.#parts = [];
    this.#isUsed = false;
    this.#slab?.release();
    this.#slab = undefined;
    this.#start = 0;
    this.#end = 0;
  }

  #renew(): void {
    this.#closeRun();
    this.#slab?.release();
    this.#slab = this.#pool.acquire(GATHER_BYTES);
    this.#start = 0;
    this.#end = 0;
    this.#isUsed = false;
  }

  #closeRun(): void {
    if (this.#end === this.#start) return;
    this.#parts.push(this.#slab!.bytes.subarray(this.#start, this.#end));
    this.#start = this.#end;
  }
}
