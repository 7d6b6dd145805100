// filter evil: a disk that lies. It corrupts what is read, or what is written, and says that all is well. Where and how
// depends on the seed and the place alone, never on how a range is cut into requests.
import { SECTOR_BYTES } from '../base/limits.ts';
import { andThen, type MaybePromise } from '../base/maybe.ts';
import { allData, type BlockDevice, type DeviceLimits, type Extent } from '../blockdev/block-device.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import { PassThrough } from './pass-through.ts';
import { freshSeed, MAX_SEED } from './random.ts';

export const evilFilter = defineFilter({
  name: 'evil',
  summary: 'Corrupts data without telling, to see who notices',
  options: {
    rate: {
      kind: 'number',
      min: 0,
      max: 1,
      required: true,
      adjustable: true,
      description: 'share of the sectors of 512 bytes in which one bit is wrong',
    },
    mode: {
      kind: 'choice',
      choices: ['flip', 'stuck'],
      default: 'flip',
      description: 'whether such a bit is turned round, or always reads as the same',
    },
    on: {
      kind: 'list',
      choices: ['read', 'write'],
      default: ['read'],
      description: 'whether data is corrupted on its way from the disk or to it',
    },
    seed: {
      kind: 'integer',
      min: 0,
      max: MAX_SEED,
      description: 'makes the places repeatable; without it each run differs, and the log tells its seed',
    },
  },
  examples: [
    {
      spec: 'evil,rate=0.001,seed=7',
      text: 'One sector in a thousand has a bit flipped whenever it is read',
    },
    {
      spec: 'evil,rate=0.001,mode=stuck,on=write',
      text: 'Bits that can’t be written come to the disk wrong',
    },
  ],
  create(below, { rate, mode, on, seed = freshSeed() }, { logger }) {
    logger.warn({ seed }, `data will be corrupted, seed=${seed}`);
    return new EvilFilter(below, { rate, isStuck: mode === 'stuck', on, seed });
  },
});

interface Evil {
  readonly rate: number;
  readonly isStuck: boolean;
  readonly on: readonly ('read' | 'write')[];
  readonly seed: number;
}

class EvilFilter extends PassThrough {
  readonly #evil: Evil;
  readonly #limits: DerivedLimits;
  #rate: number;
  #corrupted = 0;

  constructor(below: BlockDevice, evil: Evil) {
    super(below);
    this.#evil = evil;
    this.#rate = evil.rate;
    this.#limits = new DerivedLimits(below, (limits) => ({
      cheapExtents: limits.cheapExtents && !evil.on.includes('read'),
    }));
  }

  override get limits(): DeviceLimits {
    return this.#limits.current;
  }

  status(): FilterStatus {
    return { corruptedBits: this.#corrupted, rate: this.#rate, seed: this.#evil.seed };
  }

  adjust(changes: { readonly rate?: number }): void {
    this.#rate = changes.rate ?? this.#rate;
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    const result = super.read(offset, target);
    if (this.#rate === 0 || !this.#evil.on.includes('read')) return result;
    return andThen(result, () => this.#corrupt(offset, target));
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    if (this.#rate === 0 || !this.#evil.on.includes('write')) return super.write(offset, data, fua);
    // The caller's bytes are lent, not given.
    const copy = Buffer.from(data);
    this.#corrupt(offset, copy);
    return super.write(offset, copy, fua);
  }

  /** What reads wrong can't be told to be zero. */
  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    if (this.#evil.on.includes('read')) return allData(offset, length);
    return super.extents(offset, length, maxExtents);
  }

  #corrupt(offset: number, bytes: Buffer): void {
    const { seed, isStuck } = this.#evil;
    const end = offset + bytes.length;
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector += 1) {
      const draw = hash(seed, sector);
      if (draw / 2 ** 32 >= this.#rate) continue;
      const place = hash(draw, sector);
      const at = sector * SECTOR_BYTES + (place % SECTOR_BYTES) - offset;
      if (at < 0 || at >= bytes.length) continue;
      const bit = 1 << (Math.floor(place / SECTOR_BYTES) % 8);
      const before = bytes[at]!;
      const isOne = Math.floor(place / 4096) % 2 === 1;
      const after = isStuck ? (isOne ? before | bit : before & ~bit) : before ^ bit;
      bytes[at] = after;
      if (after !== before) this.#corrupted += 1;
    }
  }
}

/** 32 bits that look random, from a seed and a sector's number of any size. */
function hash(seed: number, sector: number): number {
  const high = Math.floor(sector / 2 ** 32);
  let x = (seed ^ Math.imul(high, 0x9e37_79b9)) >>> 0;
  x = mix(x ^ 0x5bd1_e995);
  return mix(x ^ (sector % 2 ** 32));
}

function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a_2d97);
  return (x ^ (x >>> 15)) >>> 0;
}
