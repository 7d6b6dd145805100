// The frames of one entry of the stream. A list of dirty ranges, and zeroes to a hub that knows the RFC alone, come in
// pieces: the entry remembers how far it is.
import { unreachable } from '../base/assert.ts';
import { MiB } from '../base/limits.ts';
import { FRAME_HEADER_BYTES, MAX_EXTENTS_PER_FRAME } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import type { DiskRange } from '../repwire/messages.ts';
import { type FrameGather, MAX_COPIED_BYTES } from './frame-gather.ts';
import type { MirrorEntry } from './mirror-queue.ts';

/** Zeroes to a hub that knows the RFC alone go as writes of at most so many bytes. */
export const ZERO_PIECE_BYTES = MiB;

let zeroPiece: Buffer | undefined;

/**
 * Gathers the next frames of an entry.
 * @param extensions whether the hub takes more than the RFC's writes
 * @returns whether that was all of it
 */
export function gatherEntry(entry: MirrorEntry, extensions: boolean, gather: FrameGather): boolean {
  const { kind, offset, length } = entry;
  const id = entry.owner.wireId;
  const stamp = extensions ? entry : encode.NO_STAMP;
  switch (kind) {
    case 'write':
      gatherWrite(gather, id, offset, stamp, entry.bytes!);
      return true;
    case 'failed':
      gather.addPart(encode.encodeProtectedWrite(id, offset, length, -1, stamp, NO_BYTES));
      return true;
    case 'writeZeroes':
    case 'trim':
      if (!extensions) return expandZeroes(entry, gather);
      gather.addPart(encode.encodeProtectedZero(id, offset, length, kind === 'trim', stamp));
      return true;
    case 'flush':
      gather.addPart(encode.encodeProtectedFlush(id, stamp));
      return true;
    case 'dirty':
      return expandDirty(entry, gather);
    case 'frame':
      gather.addPart(entry.bytes!);
      return true;
    default:
      return unreachable(kind, 'entry');
  }
}

const NO_BYTES = Buffer.alloc(0);

function gatherWrite(
  gather: FrameGather,
  volumeId: bigint,
  offset: number,
  stamp: encode.Stamp,
  data: Buffer,
): void {
  if (data.length > MAX_COPIED_BYTES) {
    gather.addPart(encode.encodeProtectedWrite(volumeId, offset, data.length, 0, stamp, data));
    gather.addPart(data);
    return;
  }
  const at = gather.reserve(FRAME_HEADER_BYTES + data.length);
  encode.putProtectedWrite(gather.target, at, volumeId, offset, data.length, 0, stamp, data);
  gather.target.set(data, at + FRAME_HEADER_BYTES);
}

/** The next piece of a range of zeroes, as a write. */
function expandZeroes(entry: MirrorEntry, gather: FrameGather): boolean {
  zeroPiece ??= Buffer.alloc(ZERO_PIECE_BYTES);
  const length = Math.min(ZERO_PIECE_BYTES, entry.length - entry.cursor);
  const data = zeroPiece.subarray(0, length);
  const at = entry.offset + entry.cursor;
  gatherWrite(gather, entry.owner.wireId, at, encode.NO_STAMP, data);
  entry.cursor += length;
  return entry.cursor === entry.length;
}

/** The next frame of a DIRTY list. */
function expandDirty(entry: MirrorEntry, gather: FrameGather): boolean {
  const bits = entry.bits!;
  const { chunkBytes } = entry;
  const { wireId, sizeBytes } = entry.owner;
  const extents: DiskRange[] = [];
  let start = bits.nextSet(entry.cursor);
  while (start !== -1 && extents.length < MAX_EXTENTS_PER_FRAME) {
    const end = bits.nextClear(start);
    const offset = start * chunkBytes;
    extents.push({ offset, length: Math.min(end * chunkBytes, sizeBytes) - offset });
    entry.cursor = end;
    start = end < bits.sizeBits ? bits.nextSet(end) : -1;
  }
  const more = start !== -1;
  gather.addPart(encode.encodeDirty(wireId, entry, extents, more, entry.why));
  return !more;
}
