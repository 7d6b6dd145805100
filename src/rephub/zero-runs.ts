// Tells pieces of a read that are all zero from those that hold data, so that an image stays sparse. A piece of
// zeroes is still stored, as zeroes: what the image held there before must not shine through.
import { KiB } from '../base/limits.ts';

/** Bytes in which zeroes are looked for, aligned on the volume. */
const PIECE_BYTES = 64 * KiB;

const ZEROES = Buffer.alloc(PIECE_BYTES);

export function isAllZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, bytes.length - at);
    if (bytes.compare(ZEROES, 0, length, at, at + length) !== 0) return false;
  }
  return true;
}

/**
 * Calls `data` and `zeroes` for the pieces of `bytes` in order, neighbours of one kind joined.
 * @param offset where `bytes` lies on the volume, bytes
 */
export function splitZeroRuns(
  offset: number,
  bytes: Buffer,
  data: (offset: number, piece: Buffer) => void,
  zeroes: (offset: number, length: number) => void,
): void {
  let from = 0;
  let zero = false;
  const emit = (to: number): void => {
    if (from === to) return;
    if (zero) zeroes(offset + from, to - from);
    else data(offset + from, bytes.subarray(from, to));
    from = to;
  };
  for (let at = 0; at < bytes.length; ) {
    const next = Math.min(bytes.length, at + PIECE_BYTES - ((offset + at) % PIECE_BYTES));
    const pieceIsZero = isAllZero(bytes.subarray(at, next));
    if (pieceIsZero !== zero) {
      emit(at);
      zero = pieceIsZero;
    }
    at = next;
  }
  emit(bytes.length);
}
