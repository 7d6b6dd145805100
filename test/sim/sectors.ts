// What sectors hold, as one number each: 0 is zeroes, any other number is a sector that says that number 64 times over.
// Every write of a run brings a number of its own, so that what a sector holds tells which write it comes from.
export const SECTOR = 512;

/** What no write of a guest brought: bytes that don't belong together, or memory that was used again. */
export const TORN = -1;

const ZEROES = Buffer.alloc(SECTOR);

/** Fills whole sectors of `target` from `at` on. */
export function fillSector(target: Buffer, at: number, tag: number): void {
  if (tag === 0) {
    target.fill(0, at, at + SECTOR);
    return;
  }
  target.writeInt32LE(tag, at);
  target.writeUInt32LE(0xa5a5_a5a5, at + 4);
  target.copyWithin(at + 8, at, at + 8);
  target.copyWithin(at + 16, at, at + 16);
  target.copyWithin(at + 32, at, at + 32);
  target.copyWithin(at + 64, at, at + 64);
  target.copyWithin(at + 128, at, at + 128);
  target.copyWithin(at + 256, at, at + 256);
}

/** What a sector of `data` holds. */
export function sectorTag(data: Buffer, at: number): number {
  const tag = data.readInt32LE(at);
  if (tag === 0) return data.compare(ZEROES, 0, SECTOR, at, at + SECTOR) === 0 ? 0 : TORN;
  const repeats = data.compare(data, at + 8, at + SECTOR, at, at + SECTOR - 8) === 0;
  return repeats && data.readUInt32LE(at + 4) === 0xa5a5_a5a5 ? tag : TORN;
}
