// A READ or WRITE that is larger than the device takes at once, carried out piece by piece from its start. It must
// stay synchronous on a device that is.
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';

/** As device.read, for any length. @throws BlockError of the first piece that fails */
export function readInPieces(device: BlockDevice, offset: number, target: Buffer): MaybePromise<void> {
  return inPieces(target.length, device.limits.maxRequestBytes, (start, end) =>
    device.read(offset + start, target.subarray(start, end)),
  );
}

/** As device.write, for any length; what comes before a piece that fails is written. @throws BlockError of that piece */
export function writeInPieces(
  device: BlockDevice,
  offset: number,
  data: Buffer,
  fua: boolean,
): MaybePromise<void> {
  return inPieces(data.length, device.limits.maxRequestBytes, (start, end) =>
    device.write(offset + start, data.subarray(start, end), fua),
  );
}

type Piece = (start: number, end: number) => MaybePromise<void>;

function inPieces(length: number, pieceBytes: number, run: Piece): MaybePromise<void> {
  for (let start = 0; start < length; start += pieceBytes) {
    const end = Math.min(length, start + pieceBytes);
    const result = run(start, end);
    if (result instanceof Promise) return rest(result, end, length, pieceBytes, run);
  }
}

async function rest(
  first: Promise<void>,
  from: number,
  length: number,
  pieceBytes: number,
  run: Piece,
): Promise<void> {
  await first;
  for (let start = from; start < length; start += pieceBytes) {
    await run(start, Math.min(length, start + pieceBytes));
  }
}
