// What one volume's disk held at each position of its agent's stream, in one life of the agent, and which of that was
// acknowledged. The judge of the rules of replication: it knows the disks and the stream's numbers, and nothing else.
import type { SimDisk } from './sim-disk.ts';

interface Entry {
  readonly sequence: number;
  /** Sectors, and what they hold from here on. */
  readonly sectors: Int32Array;
  readonly tags: Int32Array;
}

export class VolumeTruth {
  readonly #disk: SimDisk;
  readonly #entries: Entry[] = [];
  /** As the life began. */
  readonly #first: Int32Array;
  /** What was asked for last of `contentAt`. */
  #content: { readonly sequence: number; readonly tags: Int32Array; readonly next: number } | undefined;
  /** The disk as the stream's newest position has it. */
  readonly #told: Int32Array;
  /** The disk at two positions that only move forward. */
  readonly #past: Int32Array;
  #pastNext = 0;
  readonly #acked: Int32Array;
  #ackedNext = 0;
  ackedSequence = 0;
  #ackedFloor = 0;

  /** A life of the agent begins. */
  constructor(disk: SimDisk) {
    this.#disk = disk;
    this.#first = disk.now.slice();
    this.#told = disk.now.slice();
    this.#past = disk.now.slice();
    this.#acked = disk.now.slice();
  }

  /** A change of sectors [first, end) has its place in the stream. */
  entered(sequence: number, first: number, end: number): void {
    const sectors = new Int32Array(end - first);
    for (let i = first; i < end; i += 1) sectors[i - first] = i;
    this.#add(sequence, sectors);
  }

  /** What has no place so far is named at this one. */
  named(sequence: number): void {
    const sectors: number[] = [];
    for (let i = 0; i < this.#told.length; i += 1) {
      // What is still under way gets a place of its own.
      if (this.#told[i] !== this.#disk.now[i] && !this.#disk.isUnsettled(i)) sectors.push(i);
    }
    if (sectors.length > 0) this.#add(sequence, Int32Array.from(sectors));
  }

  /** @returns the first sector in which `image` is not the disk at `sequence`, or -1. Positions must not go back */
  differsAt(sequence: number, image: Int32Array): number {
    this.#pastNext = this.#advance(this.#past, this.#pastNext, sequence);
    for (let i = 0; i < image.length; i += 1) if (image[i] !== this.#past[i]) return i;
    return -1;
  }

  /** What the disk held at the position that was asked for last. */
  pastTag(sector: number): number {
    return this.#past[sector]!;
  }

  /** What the disk held at any position, which must have been told. */
  contentAt(sequence: number): Int32Array {
    if (this.#content?.sequence !== sequence) {
      const tags = this.#first.slice();
      this.#content = { sequence, tags, next: this.#advance(tags, 0, sequence) };
    }
    return this.#content.tags;
  }

  /**
   * @param later lives that followed this one
   * @returns the first sector in which a disk has neither what it had at `sequence` nor anything newer, or -1
   */
  olderThan(sequence: number, { now, tornBy }: SimDisk, later: readonly VolumeTruth[]): number {
    const content = this.contentAt(sequence);
    const { next } = this.#content!;
    for (let i = 0; i < now.length; i += 1) {
      const tag = now[i]!;
      if (tag === content[i]) continue;
      const newer = tornBy.get(tag) ?? tag;
      const isNewer = this.#heldSince(i, newer, next) || later.some((life) => life.#heldSince(i, newer, 0));
      if (!isNewer) return i;
    }
    return -1;
  }

  /** The image was replaced: what was acknowledged up to here is void. */
  forgetAcked(sequence: number): void {
    this.#ackedFloor = sequence;
    this.ackedSequence = 0;
  }

  acked(sequence: number): void {
    if (sequence <= this.ackedSequence || sequence <= this.#ackedFloor) return;
    this.ackedSequence = sequence;
    this.#ackedNext = this.#advance(this.#acked, this.#ackedNext, sequence);
  }

  /** @returns the first sector in which what is durable of `image` is older than what was acknowledged, or -1 */
  lostAcked({ durable, tornBy }: SimDisk): number {
    if (this.ackedSequence === 0) return -1;
    for (let i = 0; i < durable.length; i += 1) {
      const tag = durable[i]!;
      // Half of something newer is no more than it.
      if (tag === this.#acked[i]) continue;
      const newer = tornBy.get(tag) ?? tag;
      if (this.#disk.now[i] !== newer && !this.#heldSince(i, newer, this.#ackedNext)) return i;
    }
    return -1;
  }

  /** Whether the sector held that at the position of that entry, or later. */
  #heldSince(sector: number, tag: number, entry: number): boolean {
    for (let e = entry; e < this.#entries.length; e += 1) {
      const { sectors, tags } = this.#entries[e]!;
      const at = sectors.indexOf(sector);
      if (at !== -1 && tags[at] === tag) return true;
    }
    return false;
  }

  #add(sequence: number, sectors: Int32Array): void {
    const tags = new Int32Array(sectors.length);
    for (let i = 0; i < sectors.length; i += 1) {
      tags[i] = this.#disk.now[sectors[i]!]!;
      this.#told[sectors[i]!] = tags[i]!;
    }
    this.#entries.push({ sequence, sectors, tags });
  }

  #advance(content: Int32Array, next: number, sequence: number): number {
    let at = next;
    for (let entry = this.#entries[at]; entry && entry.sequence <= sequence; entry = this.#entries[at]) {
      for (let i = 0; i < entry.sectors.length; i += 1) content[entry.sectors[i]!] = entry.tags[i]!;
      at += 1;
    }
    return at;
  }
}
