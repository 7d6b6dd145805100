// A READ or WRITE that is larger than the device takes at once, carried out piece by piece from its start. It must
// stay synchronous on a device that is.
import { AssertionError } from '../base/assert.ts';
import { errorMessage } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';

/** A part of a request failed, the one that begins at `offset`; `cause` is what the device said. */
export class PartFailure extends Error {
  override readonly name = 'PartFailure';
  /** On the disk, bytes. */
  readonly offset: number;

  constructor(offset: number, cause: unknown) {
    super(errorMessage(cause), { cause });
    this.offset = offset;
  }
}

/** What failed, with the place where it began; an AssertionError stays what it is. */
function partFailure(offset: number, error: unknown): unknown {
  return error instanceof AssertionError ? error : new PartFailure(offset, error);
}

/** As device.read, for any length. @throws PartFailure of the first piece that fails */
export function readInPieces(device: BlockDevice, offset: number, target: Buffer): MaybePromise<void> {
  return inPieces(offset, target.length, device.limits.maxRequestBytes, (start, end) =>
    device.read(offset + start, target.subarray(start, end)),
  );
}

/** As device.write, for any length; what comes before a piece that fails is written. @throws PartFailure of that piece */
export function writeInPieces(
  device: BlockDevice,
  offset: number,
  data: Buffer,
  fua: boolean,
): MaybePromise<void> {
  return inPieces(offset, data.length, device.limits.maxRequestBytes, (start, end) =>
    device.write(offset + start, data.subarray(start, end), fua),
  );
}

type Piece = (start: number, end: number) => MaybePromise<void>;

function inPieces(offset: number, length: number, pieceBytes: number, run: Piece): MaybePromise<void> {
  for (let start = 0; start < length; start += pieceBytes) {
    const end = Math.min(length, start + pieceBytes);
    let result: MaybePromise<void>;
    try {
      result = run(start, end);
    } catch (error) {
      throw partFailure(offset + start, error);
    }
    if (result instanceof Promise) return rest(result, start, offset, length, pieceBytes, run);
  }
}

async function rest(
  first: Promise<void>,
  from: number,
  offset: number,
  length: number,
  pieceBytes: number,
  run: Piece,
): Promise<void> {
  let start = from;
  try {
    await first;
    for (start = from + pieceBytes; start < length; start += pieceBytes) {
      await run(start, Math.min(length, start + pieceBytes));
    }
  } catch (error) {
    throw partFailure(offset + start, error);
  }
}
