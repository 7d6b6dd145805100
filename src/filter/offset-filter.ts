// filter offset: a window of the disk below, such as one partition. Offsets move by addition alone; the guard above
// keeps calls inside the window.
import { BlockError, UsageError } from '../base/errors.ts';
import { MAX_DISK_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, Extent } from '../blockdev/block-device.ts';
import { defineFilter } from './define-filter.ts';
import { PassThrough } from './pass-through.ts';

export const offsetFilter = defineFilter({
  name: 'offset',
  summary: 'Shows a window of the disk as a disk of its own, such as one partition',
  options: {
    offset: {
      kind: 'size',
      multipleOf: SECTOR_BYTES,
      max: MAX_DISK_BYTES,
      default: 0,
      description: 'where the window begins',
    },
    size: {
      kind: 'size',
      multipleOf: SECTOR_BYTES,
      min: SECTOR_BYTES,
      description: 'how many bytes it has; up to the end of the disk unless given',
    },
  },
  examples: [
    { spec: 'offset,offset=1M', text: 'The disk without its first MiB: what a usual first partition sees' },
    { spec: 'offset,offset=1M,size=512M', text: '512 MiB of it' },
  ],
  create(below, { offset, size }) {
    return new OffsetFilter(below, offset, windowSize(below, offset, size), size !== undefined);
  },
});

function windowSize(below: BlockDevice, offset: number, size: number | undefined): number {
  const { sizeBytes, limits } = below;
  if (offset >= sizeBytes) {
    throw new UsageError(`offset ${offset} is not inside the disk, which has ${sizeBytes} bytes`);
  }
  const available = sizeBytes - offset;
  if (size !== undefined && size > available) {
    throw new UsageError(
      `a window of ${size} bytes at ${offset} goes past the end of the disk, which has ${sizeBytes} bytes; ` +
        `at most ${available} are allowed`,
    );
  }
  const unit = limits.minBlockBytes;
  const chosen = size ?? available;
  if (offset % unit !== 0 || chosen % unit !== 0) {
    throw new UsageError(`offset and size must be multiples of the disk's block, which has ${unit} bytes`);
  }
  return chosen;
}

class OffsetFilter extends PassThrough {
  readonly #start: number;
  readonly #isFixed: boolean;
  #windowBytes: number;

  constructor(below: BlockDevice, start: number, windowBytes: number, isFixed: boolean) {
    super(below);
    this.#start = start;
    this.#windowBytes = windowBytes;
    this.#isFixed = isFixed;
  }

  override get sizeBytes(): number {
    return this.#windowBytes;
  }

  override resize(sizeBytes: number): MaybePromise<void> {
    if (this.#isFixed) throw new BlockError('ENOTSUP', 'the filter offset shows a window of a fixed size');
    return andThen(this.below.resize(this.#start + sizeBytes), () => {
      this.#windowBytes = sizeBytes;
    });
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    return this.below.read(offset + this.#start, target);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.below.write(offset + this.#start, data, fua);
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.below.trim(offset + this.#start, length, fua);
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.below.writeZeroes(offset + this.#start, length, fua, mayTrim);
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    return this.below.cache(offset + this.#start, length);
  }

  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return andThen(this.below.extents(offset + this.#start, length, maxExtents), (list) =>
      list.map((extent) => ({ ...extent, offset: extent.offset - this.#start })),
    );
  }
}
