import { expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import {
  HeldDevice,
  isPending,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
} from '../../support/test-devices.ts';

const EPERM = expect.objectContaining({ name: 'BlockError', code: 'EPERM' }) as unknown;

it('refuses every change, and lets everything else through', async () => {
  const spy = new RecorderDevice(new PatternDevice(65_536));
  const disk = await filtered(spy, 'readonly');
  expect(disk.limits).toEqual({ ...spy.limits, readOnly: true });
  expect(disk.limits).toBe(disk.limits);
  for (const change of [
    () => disk.write(0, Buffer.alloc(512), true),
    () => disk.write(0, Buffer.alloc(0), true),
    () => disk.trim(0, 512, false),
    () => disk.writeZeroes(0, 512, false, true),
    () => disk.resize(131_072),
  ]) {
    expect(change).toThrow(EPERM as Error);
  }
  const target = Buffer.alloc(16);
  await disk.read(512, target);
  await disk.flush();
  await disk.cache(0, 512);
  await disk.extents(0, 512);
  expect(target).toEqual(patternBytes(512, 16));
  expect(spy.lines()).toEqual(['read 512+16', 'flush', 'cache 0+512', 'extents 0+512']);
});

it('works wherever it stands in the chain', async () => {
  const spy = new RecorderDevice(new PatternDevice(65_536));
  for (const specs of [
    ['readonly', 'align', 'stats'],
    ['align', 'stats', 'readonly'],
    ['readonly', 'readonly'],
  ]) {
    const disk = await filtered(spy, ...specs);
    expect(() => disk.write(0, Buffer.alloc(1), false)).toThrow(EPERM as Error);
  }
  expect(spy.calls).toEqual([]);
});

function set(...values: string[]): ReadonlyMap<string, string[]> {
  return new Map([['active', values]]);
}

it('is switched while it runs, above filters that derive their limits', async () => {
  const spy = new RecorderDevice(new SparseDevice(65_536));
  const { chain, context } = await filterChain(spy, ['align', 'offset,offset=512', 'readonly,active=off']);
  expect([chain.limits.readOnly, context.status().readonly]).toEqual([
    false,
    { active: false, changesInFlight: 0 },
  ]);
  await chain.write(0, Buffer.alloc(512), false);
  await context.adjust('readonly', set('on'));
  expect(chain.limits.readOnly).toBe(true);
  expect(chain.limits).toBe(chain.limits);
  expect(() => chain.write(0, Buffer.alloc(512), false)).toThrow(EPERM as Error);
  expect(() => chain.resize(131_072)).toThrow(EPERM as Error);
  await chain.read(0, Buffer.alloc(512));
  await context.adjust('readonly', set('off'));
  expect(chain.limits.readOnly).toBe(false);
  await chain.trim(0, 512, false);
  expect(spy.lines()).toEqual(['write 512+512', 'read 512+512', 'trim 512+512']);
});

it('says that it fences only when changes in flight have ended, and refuses at once', async () => {
  const held = new HeldDevice(new SparseDevice(65_536));
  const { chain, context } = await filterChain(held, ['readonly,active=off']);
  const changes = [
    chain.write(0, Buffer.alloc(512), false),
    chain.trim(512, 512, false),
    chain.writeZeroes(1024, 512, false, false),
  ];
  const read = chain.read(0, Buffer.alloc(512));
  const fenced = context.adjust('readonly', set('on'));
  expect(await isPending(fenced)).toBe(true);
  expect(() => chain.write(0, Buffer.alloc(512), false)).toThrow(EPERM as Error);
  for (const count of [2, 1, 0]) {
    expect(await isPending(fenced)).toBe(true);
    await held.waiting[0]!.release();
    expect(context.status().readonly).toEqual({ active: true, changesInFlight: count });
  }
  await fenced;
  await Promise.all(changes);
  await held.releaseAll();
  await read;
});

it('of two, the second is adjusted by its number, and wrong changes are refused', async () => {
  const { chain, context } = await filterChain(new SparseDevice(65_536), [
    'stats,quiet',
    'readonly,active=off',
    'readonly,active=off',
  ]);
  await context.adjust('readonly#2', set('on'));
  expect(chain.limits.readOnly).toBe(true);
  for (const [filter, changes, message] of [
    [
      'readony',
      set('on'),
      'has no filter "readony" that can be changed while it runs (those that can: readonly, readonly#2); did you mean readonly?',
    ],
    ['stats', new Map([['quiet', ['on']]]), 'has no filter "stats"'],
    [
      'readonly',
      new Map([['activ', ['on']]]),
      'unknown option "activ": it takes active; did you mean active?',
    ],
    ['readonly', set('maybe'), '"maybe" is neither on nor off'],
    ['readonly', set('on', 'off'), 'is given 2 times'],
    ['readonly', new Map<string, string[]>(), 'say what is to be changed; it takes active'],
  ] as const) {
    await expect(context.adjust(filter, changes)).rejects.toThrow(message);
  }
  await expect(context.adjust('readonly', set('maybe'))).rejects.toBeInstanceOf(UsageError);
});
