// What a disk should hold, as a plain array: the naive answer that devices are compared with.

export class DiskModel {
  readonly bytes: Buffer;

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  write(offset: number, data: Buffer): void {
    data.copy(this.bytes, offset);
  }

  zero(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
  }

  /** The first offset at which `actual` differs, or -1. */
  firstDifference(actual: Buffer): number {
    if (actual.equals(this.bytes)) return -1;
    for (let at = 0; at < this.bytes.length; at += 1) if (actual[at] !== this.bytes[at]) return at;
    return this.bytes.length;
  }
}

/** `length` bytes that differ for each seed, from byte to byte, and from zero. */
export function pattern(length: number, seed: number): Buffer {
  const data = Buffer.allocUnsafe(length);
  // A xorshift generator; only its low 32 bits are ever used, so that bitwise operators are exact.
  let state = (Math.imul(seed % 0x7fffffff, 0x9e3779b1) ^ 0x5bd1e995) | 1;
  for (let at = 0; at < length; at += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    data[at] = state & 0xff || 1;
  }
  return data;
}
