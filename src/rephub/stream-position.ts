// Holds an agent's stream to its order: entries are numbered without a gap, over all volumes, and a DIRTY list is one
// entry however many frames it takes. A missing entry is a lost change, so a gap ends the connection.
import { WireError } from '../wire/struct.ts';

export class StreamPosition {
  #received = 0;
  /** A connection may begin anywhere: what was lost with an earlier one is told anew by each volume's first entry. */
  #isFirst = true;
  /** A DIRTY list of which more frames have to come. */
  #openVolume: bigint | undefined;

  /** The newest entry that is complete. */
  get received(): number {
    return this.#received;
  }

  /** Takes an entry in. @throws WireError when it is not the next one */
  take(sequence: number): void {
    if (this.#openVolume !== undefined) {
      throw new WireError(`entry ${sequence} came inside the DIRTY list ${this.#received + 1}`);
    }
    this.#check(sequence);
    this.#received = sequence;
    this.#isFirst = false;
  }

  /** Takes one frame of a DIRTY list in. @throws WireError when it is not the next one, or not of the list that is open */
  takeDirty(volumeId: bigint, sequence: number, more: boolean): void {
    if (this.#openVolume !== undefined) {
      if (this.#openVolume !== volumeId || sequence !== this.#received + 1) {
        throw new WireError(`DIRTY ${sequence} came inside the list ${this.#received + 1} of another volume`);
      }
    } else {
      this.#check(sequence);
      // What was lost with earlier connections is over: from the first entry on there are no gaps.
      this.#received = sequence - 1;
      this.#isFirst = false;
    }
    this.#openVolume = more ? volumeId : undefined;
    if (!more) this.#received = sequence;
  }

  #check(sequence: number): void {
    const expected = this.#received + 1;
    if (sequence === expected || (this.#isFirst && sequence > expected)) return;
    throw new WireError(`entry ${sequence} of the stream came when ${expected} was due: changes are missing`);
  }
}
