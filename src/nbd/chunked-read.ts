// A READ that is answered in several chunks, since parts of its range are holes: which chunks, and their making in one
// slab. Nothing of it is sent before all of it is there, so that a read that fails halfway never looks like a good one.
import type { Slab, SlabPool } from '../base/buffer-pool.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, Extent } from '../blockdev/block-device.ts';
import { NBD_REPLY_FLAG_DONE, SECTOR_GRID_BYTES } from '../nbdwire/constants.ts';
import { encodeReadChunk, type ReadChunk, type ReplyStyle, readChunkHeadBytes } from '../nbdwire/reply.ts';
import type { RequestHeader } from '../nbdwire/request.ts';
import { readInPieces } from './large-requests.ts';
import { MAX_READ_CHUNKS, MIN_READ_HOLE_BYTES } from './limits.ts';

/**
 * The chunks for a range with these extents: data, and those holes that are worth a chunk, cut to the grid that the
 * spec recommends.
 * @param extents cover the range
 * @returns undefined when the range is best sent as it is
 */
export function planChunks(
  extents: readonly Extent[],
  offset: number,
  length: number,
): ReadChunk[] | undefined {
  const end = offset + length;
  const chunks: ReadChunk[] = [];
  let at = offset;
  for (let i = 0; i < extents.length && chunks.length < MAX_READ_CHUNKS - 2; i += 1) {
    if (!extents[i]!.zero) continue;
    const from = extents[i]!.offset;
    // Allocated zeroes and holes are two extents, and one hole to a reader.
    while (extents[i + 1]?.zero) i += 1;
    const to = extents[i]!.offset + extents[i]!.length;
    const start = from <= offset ? offset : Math.ceil(from / SECTOR_GRID_BYTES) * SECTOR_GRID_BYTES;
    const stop = to >= end ? end : Math.floor(to / SECTOR_GRID_BYTES) * SECTOR_GRID_BYTES;
    if (stop - start < MIN_READ_HOLE_BYTES) continue;
    if (start > at) chunks.push({ offset: at, length: start - at, hole: false });
    chunks.push({ offset: start, length: stop - start, hole: true });
    at = stop;
  }
  if (chunks.length === 0) return undefined;
  if (at < end) chunks.push({ offset: at, length: end - at, hole: false });
  return chunks;
}

export class ChunkedRead {
  readonly slab: Slab;
  /** Bytes of the whole reply, at the start of the slab. */
  readonly length: number;
  readonly #chunks: readonly ReadChunk[];
  /** Where in the slab the data of each chunk go. */
  readonly #dataAt: number[] = [];

  /** Takes memory for the reply, and writes all of it but the data. @param chunks of the request's range, in order */
  constructor(pool: SlabPool, style: ReplyStyle, request: RequestHeader, chunks: readonly ReadChunk[]) {
    this.#chunks = chunks;
    this.length = chunks.reduce(
      (sum, chunk) => sum + readChunkHeadBytes(style, chunk) + (chunk.hole ? 0 : chunk.length),
      0,
    );
    this.slab = pool.acquire(this.length);
    let at = 0;
    for (const [index, chunk] of chunks.entries()) {
      const flags = index === chunks.length - 1 ? NBD_REPLY_FLAG_DONE : 0;
      at = encodeReadChunk(style, this.slab.bytes, at, flags, request, chunk);
      this.#dataAt.push(at);
      if (!chunk.hole) at += chunk.length;
    }
  }

  /** Reads the data in, one chunk after the other. @throws PartFailure of the first that fails */
  fill(device: BlockDevice, first = 0): MaybePromise<void> {
    for (let index = first; index < this.#chunks.length; index += 1) {
      const chunk = this.#chunks[index]!;
      if (chunk.hole) continue;
      const at = this.#dataAt[index]!;
      const result = readInPieces(device, chunk.offset, this.slab.bytes.subarray(at, at + chunk.length));
      if (result instanceof Promise) return result.then(() => this.fill(device, index + 1));
    }
  }
}
