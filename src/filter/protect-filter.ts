// filter protect: fences ranges of a disk. A call that touches one of them fails whole, before any of it is done.
import { BlockError, UsageError } from '../base/errors.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, Extent } from '../blockdev/block-device.ts';
import { ExtentList } from '../blockdev/extent-list.ts';
import { defineFilter } from './define-filter.ts';
import type { ByteSpan } from './option-schema.ts';
import { PassThrough } from './pass-through.ts';

export const protectFilter = defineFilter({
  name: 'protect',
  summary: 'Fences ranges of the disk against changes, or against all access',
  options: {
    range: {
      kind: 'ranges',
      required: true,
      description: 'what is fenced: `1M-2M` is the second MiB, `1M-` all but the first; joined by `+`',
    },
    deny: {
      kind: 'choice',
      choices: ['changes', 'all'],
      default: 'changes',
      description: 'what fails there: writes, trims and zeroes, or reads as well',
    },
    inverse: {
      kind: 'boolean',
      default: false,
      description: 'fence everything but these ranges',
    },
  },
  examples: [
    { spec: 'protect,range=0-1M', text: 'Boot sector and partition table stay as they are' },
    {
      spec: 'protect,range=1M-2M+10G-,deny=all',
      text: 'The second MiB and all after 10 GiB are out of reach',
    },
    { spec: 'protect,range=512M-1G,inverse', text: 'Only this half GiB can be changed' },
  ],
  create(below, { range, deny, inverse }) {
    for (const { start, end } of range) {
      if (start < below.sizeBytes && (end <= below.sizeBytes || end === Number.POSITIVE_INFINITY)) continue;
      throw new UsageError(
        `the range ${start}-${end} is not inside the disk, which has ${below.sizeBytes} bytes; write START- for all up to its end`,
      );
    }
    const spans = mergeSpans(range);
    return new ProtectFilter(below, inverse ? inverseOf(spans) : spans, deny === 'all');
  },
});

/** Sorted, without overlaps and without neighbours that touch. */
function mergeSpans(spans: readonly ByteSpan[]): ByteSpan[] {
  const merged: ByteSpan[] = [];
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1);
    if (last && span.start <= last.end) {
      merged[merged.length - 1] = { start: last.start, end: Math.max(last.end, span.end) };
    } else {
      merged.push(span);
    }
  }
  return merged;
}

/** What lies between the merged `spans`, before and behind them. */
function inverseOf(spans: readonly ByteSpan[]): ByteSpan[] {
  const between: ByteSpan[] = [];
  let at = 0;
  for (const { start, end } of spans) {
    if (start > at) between.push({ start: at, end: start });
    at = end;
  }
  if (at < Number.POSITIVE_INFINITY) between.push({ start: at, end: Number.POSITIVE_INFINITY });
  return between;
}

class ProtectFilter extends PassThrough {
  readonly #fenced: readonly ByteSpan[];
  readonly #deniesReads: boolean;

  constructor(below: BlockDevice, fenced: readonly ByteSpan[], deniesReads: boolean) {
    super(below);
    this.#fenced = fenced;
    this.#deniesReads = deniesReads;
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.#deniesReads) this.#check('read', offset, target.length);
    return super.read(offset, target);
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    this.#check('write', offset, data.length);
    return super.write(offset, data, fua);
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    this.#check('trim', offset, length);
    return super.trim(offset, length, fua);
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    this.#check('write of zeroes', offset, length);
    return super.writeZeroes(offset, length, fua, mayTrim);
  }

  override cache(offset: number, length: number): MaybePromise<void> {
    if (this.#deniesReads && this.#find(offset, length)) return undefined;
    return super.cache(offset, length);
  }

  /** What can't be read is told as data, whatever it is: a hole would be read as zeroes. */
  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    if (!this.#deniesReads || !this.#find(offset, length)) return super.extents(offset, length, maxExtents);
    return andThen(super.extents(offset, length, maxExtents), (list) => this.#veil(list, offset, length));
  }

  #veil(extents: readonly Extent[], offset: number, length: number): Extent[] {
    const list = new ExtentList(offset, length);
    for (const extent of extents) {
      if (extent.unknown) return list.giveUp();
      const end = extent.offset + extent.length;
      for (const span of this.#fenced) {
        if (span.end <= list.at || span.start >= end) continue;
        list.addUntil(span.start, extent.hole, extent.zero);
        list.addUntil(Math.min(span.end, end), false, false);
      }
      list.addUntil(end, extent.hole, extent.zero);
    }
    return list.finish();
  }

  #check(what: string, offset: number, length: number): void {
    const span = this.#find(offset, length);
    if (!span) return;
    const where = span.end === Number.POSITIVE_INFINITY ? `${span.start}-` : `${span.start}-${span.end}`;
    throw new BlockError(
      'EPERM',
      `${what} of ${length} bytes at ${offset} is not permitted: ${where} is protected`,
    );
  }

  #find(offset: number, length: number): ByteSpan | undefined {
    for (const span of this.#fenced) {
      if (span.start >= offset + length) return undefined;
      if (span.end > offset) return span;
    }
    return undefined;
  }
}
