// What BLOCK_STATUS can tell of an export: its allocation, and whatever else its owner offers. It must not know what
// the others are about.
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, Extent } from '../blockdev/block-device.ts';
import { type StatusRun, StatusRuns } from '../nbdwire/block-status.ts';
import { NBD_BASE_ALLOCATION, NBD_STATE_HOLE, NBD_STATE_ZERO } from '../nbdwire/constants.ts';

/** One meta context of an export. */
export interface MetaContext {
  /** Namespace, colon and leaf, such as `base:allocation`. */
  readonly name: string;
  /**
   * What it says of the disk from `offset` on: runs in order without gaps, at least one, which may end before the range
   * does.
   * @param offset bytes @param length bytes, above 0; the range lies inside the disk and on its block grid
   * @param maxRuns how many the client can be given
   */
  runs(offset: number, length: number, maxRuns: number): MaybePromise<readonly StatusRun[]>;
}

/** base:allocation, from what the device says of itself. */
export function allocationContext(device: BlockDevice): MetaContext {
  return {
    name: NBD_BASE_ALLOCATION,
    runs: (offset, length, maxRuns) =>
      andThen(device.extents(offset, length, maxRuns), (extents) =>
        allocationRuns(extents, length, device.limits.minBlockBytes, maxRuns),
      ),
  };
}

/**
 * Extents as runs that lie on the block grid. A block that more than one extent has a part in has only what holds for
 * all of them. What the device has not looked at is left out, so that the client asks again, unless it is all there is.
 */
export function allocationRuns(
  extents: readonly Extent[],
  length: number,
  blockBytes: number,
  maxRuns: number,
): readonly StatusRun[] {
  const list = new StatusRuns(length, maxRuns);
  const start = extents[0]!.offset;
  const rangeEnd = start + length;
  /** What was told ends here, on the grid. */
  let at = start;
  /** Flags of what lies between `at` and the extent, when that is less than a block. */
  let shared: number | undefined;
  for (const extent of extents) {
    if (extent.unknown && list.runs.length > 0) break;
    const flags = (extent.hole ? NBD_STATE_HOLE : 0) + (extent.zero ? NBD_STATE_ZERO : 0);
    const end = extent.offset + extent.length;
    if (shared !== undefined) {
      shared &= flags;
      if (end < Math.min(at + blockBytes, rangeEnd)) continue;
      const blockEnd = Math.min(at + blockBytes, rangeEnd);
      if (!list.add(blockEnd - at, shared)) break;
      at = blockEnd;
      shared = undefined;
    }
    const wholeEnd = end === rangeEnd ? end : Math.floor(end / blockBytes) * blockBytes;
    if (wholeEnd > at) {
      if (!list.add(wholeEnd - at, flags)) break;
      at = wholeEnd;
    }
    if (end > at) shared = flags;
  }
  return list.runs;
}
