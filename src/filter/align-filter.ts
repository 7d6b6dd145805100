// filter align: lets byte-granular clients use a disk of larger blocks. What is not on block borders is read, changed
// and written back; changes of one block never run at the same time, so none of them is lost.
import { UsageError } from '../base/errors.ts';
import { KiB, SECTOR_BYTES } from '../base/limits.ts';
import { andThen, isPromise, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../blockdev/block-device.ts';
import { RangeLock } from '../blockdev/range-lock.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import { PassThrough } from './pass-through.ts';

/** Largest block, bytes. */
const MAX_BLOCK_BYTES = 64 * KiB;

export const alignFilter = defineFilter({
  name: 'align',
  summary: 'Lets clients read and write single bytes of a disk that only takes whole blocks',
  options: {
    block: {
      kind: 'size',
      min: SECTOR_BYTES,
      max: MAX_BLOCK_BYTES,
      description:
        'what the disk below is given whole, a power of two; 512 unless given, more where the disk says so',
    },
  },
  examples: [
    { spec: 'align', text: 'Any offset and length is allowed; the disk sees whole sectors of 512 bytes' },
    { spec: 'align,block=4K', text: 'The disk sees whole blocks of 4 KiB' },
  ],
  create(below, { block }) {
    return new AlignFilter(below, blockBytes(below, block));
  },
});

function blockBytes(below: BlockDevice, wanted: number | undefined): number {
  const { minBlockBytes, maxRequestBytes } = below.limits;
  const block = wanted ?? Math.max(SECTOR_BYTES, minBlockBytes);
  if (!Number.isInteger(Math.log2(block)) || block % minBlockBytes !== 0) {
    throw new UsageError(
      `block ${block} must be a power of two and a multiple of the disk's block, which has ${minBlockBytes} bytes`,
    );
  }
  if (block > maxRequestBytes) {
    throw new UsageError(
      `block ${block} is larger than the disk's largest request, ${maxRequestBytes} bytes`,
    );
  }
  if (below.sizeBytes % minBlockBytes !== 0) {
    throw new UsageError(
      `the disk has ${below.sizeBytes} bytes, which is not a whole number of its ${minBlockBytes}-byte blocks`,
    );
  }
  return block;
}

/** A part of a range: either whole blocks, or less than one block. The disk's last block may be a short one. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly whole: boolean;
}

/** The filter itself, for devices that only know whole blocks. */
export class AlignFilter extends PassThrough {
  readonly #block: number;
  readonly #limits: DerivedLimits;
  /** Every change that is in flight, by the blocks it touches. */
  readonly #changes = new RangeLock();

  constructor(below: BlockDevice, block: number) {
    super(below);
    this.#block = block;
    this.#limits = new DerivedLimits(below, ({ preferredBlockBytes }) => ({
      minBlockBytes: 1,
      preferredBlockBytes: Math.max(block, preferredBlockBytes),
    }));
  }

  override get limits(): DeviceLimits {
    return this.#limits.current;
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.#isWhole(offset, target.length)) return this.below.read(offset, target);
    return inTurn(this.#pieces(offset, target.length), (piece) => {
      const part = target.subarray(piece.offset - offset, piece.offset - offset + piece.length);
      if (piece.whole) return this.below.read(piece.offset, part);
      return this.#withBlock(piece, (bytes) => {
        bytes.copy(part);
      });
    });
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (this.#isWhole(offset, data.length) && this.#changes.size === 0) {
      return this.#changes.track(offset, data.length, this.below.write(offset, data, fua));
    }
    return this.#change(offset, data.length, (piece) => {
      const part = data.subarray(piece.offset - offset, piece.offset - offset + piece.length);
      if (piece.whole) return this.below.write(piece.offset, part, fua);
      return this.#rewrite(piece, fua, (bytes) => part.copy(bytes));
    });
  }

  /** The blocks that lie in the range partly get zeroes there, since a trimmed range must read as zeroes. */
  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#change(offset, length, (piece) => {
      if (piece.whole) return this.below.trim(piece.offset, piece.length, fua);
      return this.#rewrite(piece, fua, (bytes) => bytes.fill(0));
    });
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#change(offset, length, (piece) => {
      if (piece.whole) return this.below.writeZeroes(piece.offset, piece.length, fua, mayTrim);
      return this.#rewrite(piece, fua, (bytes) => bytes.fill(0));
    });
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    const start = this.#floor(offset);
    return this.below.cache(start, this.#ceil(offset + length) - start);
  }

  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    const start = this.#floor(offset);
    const end = offset + length;
    return andThen(this.below.extents(start, this.#ceil(end) - start, maxExtents), (list) =>
      clip(list, offset, end),
    );
  }

  /**
   * Changes the range piece by piece, after every change of the same blocks that came earlier. Those that are on
   * block borders take part, else one of them could end between the reading and the writing back of a block.
   */
  #change(offset: number, length: number, apply: (piece: Piece) => MaybePromise<void>): MaybePromise<void> {
    const start = this.#floor(offset);
    return this.#changes.run(start, this.#ceil(offset + length) - start, () =>
      inTurn(this.#pieces(offset, length), apply),
    );
  }

  /** Lets `edit` change the piece's bytes within their block, and writes the block back. */
  #rewrite(piece: Piece, fua: boolean, edit: (bytes: Buffer) => void): MaybePromise<void> {
    return this.#withBlock(piece, (bytes, start, block) => {
      edit(bytes);
      return this.below.write(start, block, fua);
    });
  }

  /** Reads the block that `piece` lies in, and gives `use` the piece's bytes and the whole block. */
  #withBlock(
    piece: Piece,
    use: (bytes: Buffer, start: number, block: Buffer) => MaybePromise<void>,
  ): MaybePromise<void> {
    const start = this.#floor(piece.offset);
    const block = Buffer.allocUnsafe(this.#ceil(start + 1) - start);
    return andThen(this.below.read(start, block), () => {
      const at = piece.offset - start;
      return use(block.subarray(at, at + piece.length), start, block);
    });
  }

  /** The part before the first block border, whole blocks, the part after the last border: those that aren't empty. */
  #pieces(offset: number, length: number): Piece[] {
    const end = offset + length;
    const headEnd = Math.min(end, this.#ceil(offset));
    const bodyEnd = Math.max(headEnd, end === this.sizeBytes ? end : this.#floor(end));
    const pieces = [
      { offset, length: headEnd - offset, whole: false },
      { offset: headEnd, length: bodyEnd - headEnd, whole: true },
      { offset: bodyEnd, length: end - bodyEnd, whole: false },
    ];
    return pieces.filter((piece) => piece.length > 0);
  }

  #isWhole(offset: number, length: number): boolean {
    const end = offset + length;
    return this.#floor(offset) === offset && (end === this.sizeBytes || this.#floor(end) === end);
  }

  #floor(offset: number): number {
    return Math.floor(offset / this.#block) * this.#block;
  }

  #ceil(offset: number): number {
    return Math.min(this.sizeBytes, Math.ceil(offset / this.#block) * this.#block);
  }
}

/** Runs `apply` for each piece, one after the other; stays synchronous as long as the answers are. */
function inTurn(
  pieces: readonly Piece[],
  apply: (piece: Piece) => MaybePromise<void>,
  first = 0,
): MaybePromise<void> {
  for (let index = first; index < pieces.length; index += 1) {
    const result = apply(pieces[index]!);
    if (isPromise(result)) return result.then(() => inTurn(pieces, apply, index + 1));
  }
}

function clip(list: readonly Extent[], offset: number, end: number): Extent[] {
  const clipped: Extent[] = [];
  for (const extent of list) {
    const from = Math.max(offset, extent.offset);
    const to = Math.min(end, extent.offset + extent.length);
    if (from < to) clipped.push({ ...extent, offset: from, length: to - from });
  }
  return clipped;
}
