// Tells the allocation of a disk file by SEEK_DATA and SEEK_HOLE. Advisory: whatever it can't find out is data, and
// a hole is only told where the file system said so.
import type { Extent } from './block-device.ts';
import { allData } from './block-device.ts';
import { ExtentList } from './extent-list.ts';
import type { NativeFs } from './native-fs.ts';

/** A range more fragmented than this is told as data from here on: an answer must have an end. */
export const MAX_FILE_EXTENTS = 16_384;

/**
 * The extents of [offset, offset + length) of an open file.
 * Moves the descriptor's file position, which positional I/O doesn't use.
 */
export async function fileExtents(
  native: Pick<NativeFs, 'seek'>,
  fd: number,
  offset: number,
  length: number,
): Promise<Extent[]> {
  const end = offset + length;
  const list = new ExtentList(offset, length);
  while (list.at < end && list.count < MAX_FILE_EXTENTS) {
    const data = await native.seek(fd, list.at, 'data');
    if (data === undefined) break;
    // -1: there is no data from here to the file's end.
    list.addUntil(data === -1 ? end : data, true, true);
    if (list.at >= end) break;
    const hole = await native.seek(fd, list.at, 'hole');
    if (hole === undefined || hole <= list.at) break;
    list.addUntil(hole, false, false);
  }
  if (list.count === 0) return allData(offset, length);
  list.addUntil(end, false, false);
  return list.finish();
}
