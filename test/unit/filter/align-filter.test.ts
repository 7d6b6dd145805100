import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice, DeviceLimits } from '../../../src/blockdev/block-device.ts';
import { filtered } from '../../support/filter-chain.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
} from '../../support/test-devices.ts';

const SIZE = 65_536;
const SECTORS: Partial<DeviceLimits> = { minBlockBytes: 512 };

async function setUp(spec = 'align', limits = SECTORS, sizeBytes = SIZE) {
  const bottom = new PatternDevice(sizeBytes, limits);
  const spy = new RecorderDevice(bottom);
  return { bottom, spy, disk: await filtered(spy, spec) };
}

describe('limits', () => {
  it('allow single bytes, whatever the disk asks for', async () => {
    const { disk, spy } = await setUp();
    expect(disk.limits).toEqual({ ...spy.limits, minBlockBytes: 1 });
    expect(disk.sizeBytes).toBe(SIZE);
  });

  it('prefer no less than a block', async () => {
    const limits = { minBlockBytes: 512, preferredBlockBytes: 512 };
    expect((await setUp('align,block=8K', limits)).disk.limits.preferredBlockBytes).toBe(8192);
    expect((await setUp('align', limits)).disk.limits.preferredBlockBytes).toBe(512);
  });

  for (const [spec, limits, block] of [
    ['align', { minBlockBytes: 1 }, 512],
    ['align', { minBlockBytes: 512 }, 512],
    ['align', { minBlockBytes: 4096 }, 4096],
    ['align,block=4K', { minBlockBytes: 512 }, 4096],
    ['align,block=64K', { minBlockBytes: 4096 }, 65_536],
  ] as const) {
    it(`${spec} over blocks of ${limits.minBlockBytes} gives the disk blocks of ${block}`, async () => {
      const { disk, spy } = await setUp(spec, limits);
      await disk.read(1, Buffer.alloc(1));
      expect(spy.lines()).toEqual([`read 0+${block}`]);
    });
  }

  for (const [spec, limits, message] of [
    ['align,block=1000', SECTORS, 'block 1000 must be a power of two and a multiple of the disk'],
    ['align,block=512', { minBlockBytes: 4096 }, 'which has 4096 bytes'],
    ['align,block=256', SECTORS, 'allowed is 512 B to 64 KiB'],
    ['align,block=128K', SECTORS, 'allowed is 512 B to 64 KiB'],
    [
      'align,block=64K',
      { ...SECTORS, maxRequestBytes: 32_768 },
      "larger than the disk's largest request, 32768",
    ],
  ] as const) {
    it(`${spec} is refused where it makes no sense`, async () => {
      const refused = setUp(spec, limits);
      await expect(refused).rejects.toBeInstanceOf(UsageError);
      await expect(refused).rejects.toThrow(message);
    });
  }
});

it('refuses a disk that is not a whole number of its own blocks: its end could not be reached', async () => {
  const refused = setUp('align', { minBlockBytes: 4096 }, 4096 * 3 + 512);
  await expect(refused).rejects.toThrow('12800 bytes, which is not a whole number of its 4096-byte blocks');
});

describe('what is on block borders', () => {
  it('passes untouched: the same buffer, one call, at once', async () => {
    const { disk, spy, bottom } = await setUp();
    const seen: Buffer[] = [];
    bottom.write = (_offset, data) => void seen.push(data);
    bottom.read = (_offset, target) => void seen.push(target);
    const data = Buffer.alloc(1024, 1);
    expect(disk.write(512, data, true)).toBeUndefined();
    expect(disk.read(1024, data)).toBeUndefined();
    expect(seen).toEqual([data, data]);
    expect(seen[0]).toBe(data);
    expect(seen[1]).toBe(data);
    await disk.trim(0, 4096, true);
    await disk.writeZeroes(512, 1024, false, true);
    await disk.cache(0, 512);
    await disk.extents(512, 1024);
    await disk.flush();
    expect(spy.lines()).toEqual([
      'write 512+1024 fua',
      'read 1024+1024',
      'trim 0+4096 fua',
      'writeZeroes 512+1024 mayTrim',
      'cache 0+512',
      'extents 512+1024',
      'flush',
    ]);
  });
});

describe('what is not', () => {
  it('is read as the blocks it lies in, whole blocks straight into the caller’s buffer', async () => {
    const { disk, spy } = await setUp();
    for (const [offset, length, calls] of [
      [1, 1, ['read 0+512']],
      [511, 1, ['read 0+512']],
      [500, 24, ['read 0+512', 'read 512+512']],
      [0, 513, ['read 0+512', 'read 512+512']],
      [511, 513, ['read 0+512', 'read 512+512']],
      [100, 2000, ['read 0+512', 'read 512+1536', 'read 2048+512']],
      [SIZE - 1, 1, [`read ${SIZE - 512}+512`]],
    ] as const) {
      const target = Buffer.alloc(length);
      expect(disk.read(offset, target)).toBeUndefined();
      expect(target).toEqual(patternBytes(offset, length));
      expect(spy.take()).toEqual(calls);
    }
  });

  it('is written by reading, changing and writing back the blocks at its edges', async () => {
    const { disk, spy, bottom } = await setUp();
    await disk.write(100, Buffer.alloc(2000, 7), false);
    expect(spy.take()).toEqual([
      'read 0+512',
      'write 0+512',
      'write 512+1536',
      'read 2048+512',
      'write 2048+512',
    ]);
    expect(bottom.bytes.slice(0, 100)).toEqual(patternBytes(0, 100));
    expect(bottom.bytes.slice(100, 2000)).toEqual(Buffer.alloc(2000, 7));
    expect(bottom.bytes.slice(2100, 1000)).toEqual(patternBytes(2100, 1000));
    await disk.write(3000, Buffer.from([1]), false);
    expect(spy.take()).toEqual(['read 2560+512', 'write 2560+512']);
  });

  it('is durable in every part with fua, and in none without', async () => {
    const { disk, spy } = await setUp();
    await disk.write(100, Buffer.alloc(2000), true);
    await disk.trim(100, 2000, true);
    await disk.writeZeroes(100, 2000, true, false);
    const changes = spy.calls.filter(({ op }) => op !== 'read');
    expect(changes).toHaveLength(9);
    expect(changes.every(({ fua }) => fua)).toBe(true);
    spy.take();
    await disk.write(100, Buffer.alloc(2000), false);
    expect(spy.calls.some(({ fua }) => fua)).toBe(false);
  });

  it('is trimmed in whole blocks, and zeroed at the edges, so that all of it reads as zero', async () => {
    const { disk, spy, bottom } = await setUp();
    await disk.trim(100, 2000, false);
    expect(spy.take()).toEqual([
      'read 0+512',
      'write 0+512',
      'trim 512+1536',
      'read 2048+512',
      'write 2048+512',
    ]);
    expect(bottom.bytes.slice(100, 2000)).toEqual(Buffer.alloc(2000));
    expect(bottom.bytes.slice(0, 100)).toEqual(patternBytes(0, 100));
    expect(bottom.bytes.slice(2100, 500)).toEqual(patternBytes(2100, 500));
  });

  it('is zeroed with the flags of the call', async () => {
    const { disk, spy } = await setUp();
    await disk.writeZeroes(100, 2000, false, true);
    await disk.writeZeroes(100, 2000, false, false);
    expect(spy.lines().filter((line) => line.startsWith('writeZeroes'))).toEqual([
      'writeZeroes 512+1536 mayTrim',
      'writeZeroes 512+1536',
    ]);
  });

  it('is cached by the blocks around it', async () => {
    const { disk, spy } = await setUp();
    await disk.cache(511, 2);
    await disk.cache(SIZE - 1, 1);
    expect(spy.lines()).toEqual(['cache 0+1024', `cache ${SIZE - 512}+512`]);
  });

  it('has the extents of the blocks around it, cut to the range', async () => {
    const bottom = new SparseDevice(SIZE, SECTORS);
    bottom.bytes.write(4096, Buffer.from([1]));
    const expected = [
      { offset: 4001, length: 95, hole: true, zero: true },
      { offset: 4096, length: 4096, hole: false, zero: false },
      { offset: 8192, length: 9, hole: true, zero: true },
    ];
    expect((await filtered(bottom, 'align')).extents(4001, 4200)).toEqual(expected);
    const held = new HeldDevice(bottom);
    const late = (await filtered(held, 'align')).extents(4001, 4200);
    expect(held.lines()).toEqual(['extents 3584+5120']);
    await held.releaseAll();
    expect(await late).toEqual(expected);
  });

  it('may be larger than the largest request after rounding', async () => {
    const { disk, spy, bottom } = await setUp('align', { minBlockBytes: 512, maxRequestBytes: 4096 });
    const data = Buffer.alloc(4096, 9);
    await disk.write(1, data, false);
    expect(bottom.bytes.slice(1, 4096)).toEqual(data);
    const target = Buffer.alloc(4096);
    await disk.read(1, target);
    expect(target).toEqual(data);
    expect(Math.max(...spy.calls.map(({ length }) => length))).toBeLessThanOrEqual(4096);
  });

  it('may be 4 GiB less one byte, without memory for it', async () => {
    const disk = await filtered(new RecorderDevice(new SparseDevice(16 * GiB, SECTORS)), 'align');
    await disk.write(1, Buffer.from([1]), false);
    await disk.write(4 * GiB, Buffer.from([2]), false);
    await disk.trim(1, 4 * GiB - 1, false);
    const target = Buffer.alloc(1);
    await disk.read(1, target);
    expect(target[0]).toBe(0);
    await disk.read(4 * GiB, target);
    expect(target[0]).toBe(2);
  });
});

describe('a disk whose last block is short', () => {
  // 4 KiB blocks over a disk of 20 sectors and a half block.
  const size = 20 * 512;

  it('is read and changed to its end', async () => {
    const { disk, spy, bottom } = await setUp('align,block=4K', SECTORS, size);
    await disk.write(8192, Buffer.alloc(2048, 1), false);
    expect(spy.take()).toEqual(['write 8192+2048']);
    await disk.write(size - 1, Buffer.from([2]), false);
    expect(spy.take()).toEqual(['read 8192+2048', 'write 8192+2048']);
    await disk.trim(4095, size - 4095, false);
    expect(spy.take()).toEqual(['read 0+4096', 'write 0+4096', `trim 4096+${size - 4096}`]);
    expect(bottom.bytes.slice(4095, size - 4095)).toEqual(Buffer.alloc(size - 4095));
    await disk.cache(size - 1, 1);
    await disk.extents(9000, 500);
    expect(spy.take()).toEqual(['cache 8192+2048', 'extents 8192+2048']);
  });
});

describe('several changes at once', () => {
  async function heldDisk(): Promise<{ bottom: SparseDevice; held: HeldDevice; disk: BlockDevice }> {
    const bottom = new SparseDevice(SIZE, SECTORS);
    const held = new HeldDevice(bottom);
    return { bottom, held, disk: await filtered(held, 'align') };
  }

  it('of one block take turns, so that none is lost', async () => {
    const { bottom, held, disk } = await heldDisk();
    const answers = [disk.write(0, Buffer.from('ab'), false), disk.write(2, Buffer.from('cd'), false)];
    expect(held.lines()).toEqual(['read 0+512']);
    await held.waiting[0]?.release();
    expect(held.lines()).toEqual(['write 0+512']);
    await held.waiting[0]?.release();
    expect(await isPending(answers[0]!)).toBe(false);
    expect(held.lines()).toEqual(['read 0+512']);
    await held.releaseAll();
    for (const answer of answers) await answer;
    expect(bottom.bytes.slice(0, 4).toString()).toBe('abcd');
  });

  it('wait for a whole-block write in flight: it would end between reading and writing back', async () => {
    const { bottom, held, disk } = await heldDisk();
    const whole = disk.write(0, Buffer.alloc(1024, 1), false);
    const part = disk.write(600, Buffer.from([2]), false);
    expect(held.lines()).toEqual(['write 0+1024']);
    await held.releaseAll();
    await Promise.all([whole, part]);
    const expected = Buffer.alloc(1024, 1);
    expected[600] = 2;
    expect(bottom.bytes.slice(0, 1024)).toEqual(expected);
  });

  it('make a whole-block write wait its turn, and a trim, and zeroes', async () => {
    const { bottom, held, disk } = await heldDisk();
    const answers = [
      disk.write(100, Buffer.alloc(1000, 1), false),
      disk.write(0, Buffer.alloc(512, 2), false),
      disk.trim(512, 512, false),
      disk.writeZeroes(1024, 512, false, true),
    ];
    expect(held.lines()).toEqual(['read 0+512']);
    await held.releaseAll();
    for (const answer of answers) await answer;
    expect(bottom.bytes.slice(0, 512)).toEqual(Buffer.alloc(512, 2));
    expect(bottom.bytes.slice(512, 1024)).toEqual(Buffer.alloc(1024));
  });

  it('do not hold up those elsewhere, nor reads', async () => {
    const { held, disk } = await heldDisk();
    void disk.write(100, Buffer.from('x'), false);
    void disk.write(512, Buffer.alloc(512), false);
    void disk.write(1025, Buffer.from('y'), false);
    void disk.read(0, Buffer.alloc(512));
    void disk.read(101, Buffer.alloc(1));
    void disk.trim(2048, 512, false);
    void disk.flush();
    expect(held.lines()).toEqual([
      'read 0+512',
      'write 512+512',
      'read 1024+512',
      'read 0+512',
      'read 0+512',
      'trim 2048+512',
      'flush',
    ]);
    await held.releaseAll();
    await disk.close();
  });

  it('are all finished before the disk is closed', async () => {
    const { bottom, held, disk } = await heldDisk();
    const answers = [0, 1, 2, 3].map((at) => disk.write(at, Buffer.from([at + 1]), false));
    const closing = disk.close();
    await held.releaseAll();
    await Promise.all([...answers, closing]);
    expect([...bottom.bytes.slice(0, 4)]).toEqual([1, 2, 3, 4]);
    expect(bottom.closes).toBe(1);
  });

  it('go on after one failed', async () => {
    const { bottom, held, disk } = await heldDisk();
    const first = expect(disk.write(0, Buffer.from('a'), false)).rejects.toThrow('held read failed');
    const second = disk.write(1, Buffer.from('b'), false);
    await held.waiting[0]?.fail();
    await first;
    await held.releaseAll();
    await second;
    expect([...bottom.bytes.slice(0, 2)]).toEqual([0, 98]);
  });
});

describe('failures of the disk', () => {
  it('while reading leave the block as it was', async () => {
    const bottom = new PatternDevice(SIZE, SECTORS);
    const fault = new FaultDevice(bottom);
    const disk = await filtered(fault, 'align');
    fault.fail({ ops: ['read'], times: 1 });
    expect(() => disk.write(100, Buffer.alloc(10), false)).toThrow('injected fault in read 0+512');
    expect(bottom.bytes.slice(0, 512)).toEqual(patternBytes(0, 512));
    await disk.write(100, Buffer.alloc(10), false);
  });

  it('in one part end the call: the parts after it are not tried', async () => {
    const fault = new FaultDevice(new PatternDevice(SIZE, SECTORS));
    const spy = new RecorderDevice(fault);
    const disk = await filtered(spy, 'align');
    fault.fail({ ops: ['trim'], times: 1, rejects: true });
    await expect(disk.trim(100, 2000, false)).rejects.toThrow('injected fault in trim 512+1536');
    expect(spy.lines()).toEqual(['read 0+512', 'write 0+512', 'trim 512+1536']);
  });

  it('reach the reader', async () => {
    const fault = new FaultDevice(new PatternDevice(SIZE, SECTORS));
    const disk = await filtered(fault, 'align');
    fault.fail({ ops: ['read'], from: 1024, to: 1536 });
    expect(() => disk.read(100, Buffer.alloc(1000))).toThrow('injected fault in read 1024+512');
    expect(disk.read(100, Buffer.alloc(900))).toBeUndefined();
  });
});

it('takes requests of 32 MiB at odd offsets', { timeout: 30_000 }, async () => {
  const disk = await filtered(new PatternDevice(40 * MiB, SECTORS), 'align');
  const target = Buffer.alloc(32 * MiB);
  await disk.read(3 * KiB + 5, target);
  expect(target.equals(patternBytes(3 * KiB + 5, 32 * MiB))).toBe(true);
});
