// What a test has written to a disk, so that of any copy of it can be told how old each sector is: every sector says which
// block it is of, and which write it came with. Nothing here is forgotten: a sector that nobody wrote is a finding.

const SECTOR_BYTES = 512;
const TAG_BYTES = 8;
export const BLOCK_BYTES = 4096;

/** Findings that are told of one copy. */
const MOST_TOLD = 5;

export class TaggedDisk {
  readonly sizeBytes: number;
  /** Of each block, which writes it was in, in order. */
  readonly #writes: number[][];
  #count = 0;
  /** Writes that a power cut may have undone, [first, last]. */
  readonly #doubtful: Array<readonly [number, number]> = [];

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#writes = Array.from({ length: sizeBytes / BLOCK_BYTES }, () => []);
  }

  get blocks(): number {
    return this.#writes.length;
  }

  /** Writes so far; the first one is number 1. */
  get count(): number {
    return this.#count;
  }

  /** The next write: what is to be written to `blocks` blocks from `first` on. */
  next(first: number, blocks: number): Buffer {
    this.#count += 1;
    const data = Buffer.alloc(blocks * BLOCK_BYTES);
    for (let at = 0; at < data.length; at += TAG_BYTES) {
      data.writeUInt32LE(first + Math.floor(at / BLOCK_BYTES), at);
      data.writeUInt32LE(this.#count, at + 4);
    }
    for (let block = first; block < first + blocks; block += 1) this.#writes[block]!.push(this.#count);
    return data;
  }

  /** The disk lost its power when only the writes up to number `flushed` were durable: later ones may be gone. */
  lostPower(flushed: number): void {
    this.#doubtful.push([flushed + 1, this.#count]);
  }

  /**
   * What is wrong with a copy that must hold the writes up to number `upTo`, and may hold later ones, of any sector.
   * Before a block was written it holds zeroes.
   */
  problems(copy: Buffer, upTo: number): string[] {
    if (copy.length !== this.sizeBytes) return [`${copy.length} bytes instead of ${this.sizeBytes}`];
    const found: string[] = [];
    for (let block = 0; block < this.blocks && found.length < MOST_TOLD; block += 1) {
      const writes = this.#writes[block]!;
      const oldest = writes.findLast((write) => write <= upTo && !this.#isDoubtful(write)) ?? 0;
      for (let at = block * BLOCK_BYTES; at < (block + 1) * BLOCK_BYTES; at += SECTOR_BYTES) {
        const finding = sectorProblem(copy.subarray(at, at + SECTOR_BYTES), block, writes, oldest);
        if (finding) found.push(`${finding} at ${at}, block ${block}, whose writes are ${writes.slice(-5)}`);
      }
    }
    return found.slice(0, MOST_TOLD);
  }

  #isDoubtful(write: number): boolean {
    return this.#doubtful.some(([first, last]) => first <= write && write <= last);
  }
}

function sectorProblem(
  sector: Buffer,
  block: number,
  writes: readonly number[],
  oldest: number,
): string | undefined {
  const write = sector.readUInt32LE(4);
  const isWhole = sector.subarray(TAG_BYTES).equals(sector.subarray(0, -TAG_BYTES));
  if (!isWhole) return 'a torn sector';
  if (write === 0 && sector.readUInt32LE(0) === 0) {
    return oldest === 0 ? undefined : `zeroes instead of write ${oldest}`;
  }
  if (sector.readUInt32LE(0) !== block || !writes.includes(write)) return 'a sector that was never written';
  return write < oldest ? `write ${write} instead of ${oldest}` : undefined;
}
