// The suite over every filter: each must be as good a disk as the one below it, over a disk that answers at once and
// over one that answers late and in any order.
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { describeFilters } from '../../src/filter/registry.ts';
import { blockDeviceSuite, type SuiteFeatures } from '../support/block-device-suite.ts';
import { filtered } from '../support/filter-chain.ts';
import { JumbleDevice } from '../support/test-devices.ts';

interface Case {
  /** Outermost first. */
  readonly specs: readonly string[];
  /** The alignment of the disk below. */
  readonly minBlockBytes?: number;
  /** How much larger the disk below must be. */
  readonly extraBytes?: number;
  /** The chain keeps overlapping changes in order even where the disk below doesn't. */
  readonly orders?: boolean;
  readonly features?: SuiteFeatures;
}

const CASES: readonly Case[] = [
  { specs: [] },
  { specs: ['log'] },
  { specs: ['stats,quiet'] },
  { specs: ['error,rate=0'] },
  { specs: ['error,max=0'] },
  // A millisecond a call: few runs.
  { specs: ['delay,write=0,trim=0,zero=0,flush=0,jitter=2ms,seed=1'], orders: true, features: { runs: 3 } },
  { specs: ['delay,read=0'], orders: true },
  { specs: ['pause'] },
  { specs: ['readonly,active=off'] },
  { specs: ['protect,range=0-,inverse'] },
  { specs: ['protect,range=0-,inverse,deny=all'] },
  { specs: ['rate'] },
  { specs: ['rate,bytes=100G,requests=1000000'] },
  { specs: ['retry'], orders: true },
  { specs: ['evil,rate=0,on=read+write,seed=1'] },
  { specs: ['cow,memory'], orders: true },
  { specs: ['cow,memory'], minBlockBytes: 4096, orders: true },
  { specs: ['cow'], orders: true },
  { specs: ['align', 'cow,memory', 'rate', 'retry'], minBlockBytes: 512, orders: true },
  { specs: ['offset,offset=1M'], extraBytes: MiB },
  { specs: ['align'], orders: true },
  { specs: ['align'], minBlockBytes: 512, orders: true },
  { specs: ['align'], minBlockBytes: 4096, orders: true },
  { specs: ['align,block=4K'], minBlockBytes: 512, orders: true },
  {
    specs: ['stats,quiet', 'align', 'offset,offset=512', 'log'],
    minBlockBytes: 512,
    extraBytes: 512,
    orders: true,
  },
  { specs: ['offset,offset=1M', 'align', 'error,rate=0'], minBlockBytes: 512, extraBytes: MiB, orders: true },
];

for (const { specs, minBlockBytes = 1, extraBytes = 0, orders = false, features = {} } of CASES) {
  const name = specs.length === 0 ? 'an empty chain' : `filter ${specs.join(' over ')}`;
  const make =
    (disk: (memory: MemoryDevice) => BlockDevice) =>
    async ({ sizeBytes }: { sizeBytes: number }) => {
      const bottomBytes = sizeBytes + extraBytes;
      // A disk of larger blocks is a whole number of them; the suite also asks for one that can't be.
      const unit = bottomBytes % minBlockBytes === 0 ? minBlockBytes : 512;
      const memory = new MemoryDevice({ sizeBytes: bottomBytes, minBlockBytes: unit });
      return { device: await filtered(disk(memory), ...specs), cleanup: async () => {} };
    };
  blockDeviceSuite(
    `${name} over ${minBlockBytes}-byte blocks`,
    make((memory) => memory),
    { grows: true, ...features },
  );
  let seed = 0;
  blockDeviceSuite(
    `${name} over ${minBlockBytes}-byte blocks of a disk without haste or order`,
    make((memory) => {
      seed += 1;
      return new JumbleDevice(memory, seed);
    }),
    { grows: true, ...features, ordered: orders, runs: Math.min(10, features.runs ?? 10) },
  );
}

it('leaves no filter out', () => {
  const tried = new Set(CASES.flatMap(({ specs }) => specs.map((spec) => spec.split(',')[0])));
  const missing = describeFilters().filter(({ name }) => !tried.has(name));
  expect(missing.map(({ name }) => name)).toEqual([]);
});
