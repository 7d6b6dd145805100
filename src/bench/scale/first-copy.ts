// How far the first copies of a cell's volumes are, for the line of progress. Pure.
import { formatBytes } from '../../base/size.ts';
import type { VolumeStatus } from '../../control/status.ts';
import { isCaughtUp } from '../own-process.ts';
import type { ScaleCell } from './cells.ts';

/** @param elapsedMs since the start */
export function firstCopy(
  cell: ScaleCell,
  volumes: readonly VolumeStatus[],
  elapsedMs: number,
): { readonly text: string; readonly secondsLeft: number } {
  const totalBytes = cell.volumes * cell.sizeBytes;
  const done = volumes.map((one) => (isCaughtUp(one) ? cell.sizeBytes : one.syncDoneBytes));
  const doneBytes = done.reduce((sum, bytes) => sum + bytes, 0);
  const bytesPerMs = doneBytes / elapsedMs;
  const secondsLeft =
    doneBytes > 0
      ? (totalBytes - doneBytes) / bytesPerMs / 1000
      : Math.max(0, cell.startSeconds - elapsedMs / 1000);
  const percent = Math.floor((doneBytes / totalBytes) * 100);
  return { text: `first copy ${percent}%, ${formatBytes(bytesPerMs * 1000)}/s`, secondsLeft };
}
