// The range of a request of the hub, checked before anything is done for it: whatever a hub sends, no offset, size or id
// reaches a device that is not a range of that volume.
import { SECTOR_BYTES } from '../base/limits.ts';
import type { DiskRange } from '../repwire/messages.ts';

interface AskedRange {
  readonly offsetSectors: bigint;
  readonly sizeSectors: number;
}

/**
 * @param maxBytes largest range that is served
 * @returns the range in bytes; undefined when it's empty, too large, or not on a disk of `sizeBytes`
 */
export function checkedRange(asked: AskedRange, sizeBytes: number, maxBytes: number): DiskRange | undefined {
  const { offsetSectors, sizeSectors } = asked;
  if (!Number.isInteger(sizeSectors) || sizeSectors <= 0 || sizeSectors > maxBytes / SECTOR_BYTES) {
    return undefined;
  }
  if (offsetSectors < 0n || offsetSectors + BigInt(sizeSectors) > BigInt(sizeBytes / SECTOR_BYTES)) {
    return undefined;
  }
  return { offset: Number(offsetSectors) * SECTOR_BYTES, length: sizeSectors * SECTOR_BYTES };
}
