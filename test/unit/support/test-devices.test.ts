// The doubles themselves: a double that can't catch anything would make every test above it green.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  ShortDevice,
  SparseDevice,
  settled,
  VerifyDevice,
} from '../../support/test-devices.ts';

describe('SparseDevice', () => {
  it('starts as zeroes and keeps what was written, around 4 GiB too', async () => {
    const disk = new SparseDevice(2 ** 40);
    for (const offset of [0, 4095, 2 ** 32 - 3, 2 ** 40 - 5]) {
      await disk.write(offset, Buffer.from('hello'), false);
      expect(disk.bytes.slice(offset, 5).toString()).toBe('hello');
    }
    expect(disk.bytes.slice(5, 100)).toEqual(Buffer.alloc(100));
  });

  it('zeroes what is trimmed, and nothing beside it', async () => {
    const disk = new SparseDevice(65_536);
    await disk.write(0, Buffer.alloc(10_000, 1), false);
    await disk.trim(100, 5000, false);
    expect(disk.bytes.slice(0, 100)).toEqual(Buffer.alloc(100, 1));
    expect(disk.bytes.slice(100, 5000)).toEqual(Buffer.alloc(5000));
    expect(disk.bytes.slice(5100, 4900)).toEqual(Buffer.alloc(4900, 1));
  });

  it('forgets whole pages that are trimmed, in a huge range too', async () => {
    const disk = new SparseDevice(2 ** 45);
    for (const at of [0, 4096, 8192, 2 ** 40]) await disk.write(at, Buffer.alloc(4096, 1), false);
    await disk.trim(4095, 2 ** 40 - 4094, false);
    const left = [0, 4094, 4095, 4096, 8192, 2 ** 40, 2 ** 40 + 1].map((at) => disk.bytes.slice(at, 1)[0]);
    expect(left).toEqual([1, 1, 0, 0, 0, 0, 1]);
    expect(disk.bytes.isWritten(4096)).toBe(false);
    const patterned = new PatternDevice(2 ** 45);
    await patterned.trim(100, 10_000, false);
    expect(patterned.bytes.slice(100, 10_000)).toEqual(Buffer.alloc(10_000));
    expect(patterned.bytes.slice(10_104, 8)).toEqual(patternBytes(10_104, 8));
  });

  it('tells data from holes, covering the range exactly', async () => {
    const disk = new SparseDevice(65_536);
    await disk.write(4096, Buffer.from([1]), false);
    expect(disk.extents(4000, 5000)).toEqual([
      { offset: 4000, length: 96, hole: true, zero: true },
      { offset: 4096, length: 4096, hole: false, zero: false },
      { offset: 8192, length: 808, hole: true, zero: true },
    ]);
  });
});

describe('PatternDevice', () => {
  it('holds in every 8 bytes their own offset', async () => {
    const disk = new PatternDevice(2 ** 50);
    const target = Buffer.alloc(24);
    await disk.read(2 ** 45 - 8, target);
    expect([0, 8, 16].map((at) => target.readBigUInt64BE(at))).toEqual(
      [2 ** 45 - 8, 2 ** 45, 2 ** 45 + 8].map(BigInt),
    );
    await disk.read(3, target);
    expect(target).toEqual(patternBytes(0, 40).subarray(3, 27));
  });
});

describe('RecorderDevice', () => {
  it('lists every call with its flags, data and outcome', async () => {
    const fault = new FaultDevice(new SparseDevice(4096));
    const spy = new RecorderDevice(fault);
    await spy.write(1, Buffer.from('ab'), true);
    await spy.writeZeroes(2, 3, false, true);
    fault.fail({ times: 1 });
    expect(() => spy.flush()).toThrow('injected');
    expect(spy.calls[0]?.data?.toString()).toBe('ab');
    expect(spy.calls.map((call) => call.outcome)).toEqual(['ok', 'ok', { error: expect.any(BlockError) }]);
    expect(spy.take()).toEqual(['write 1+2 fua', 'writeZeroes 2+3 mayTrim', 'flush']);
    expect(spy.calls).toEqual([]);
    await spy.close();
    expect(spy.closes).toBe(1);
  });
});

describe('FaultDevice', () => {
  it('fails only what the rule names, as often as it says', async () => {
    const disk = new FaultDevice(new SparseDevice(65_536));
    disk.fail({ ops: ['write'], from: 512, to: 1024, times: 2, error: new BlockError('ENOSPC', 'full') });
    await disk.write(0, Buffer.alloc(512), false);
    await disk.read(512, Buffer.alloc(512));
    expect(() => disk.write(0, Buffer.alloc(513), false)).toThrow('full');
    expect(() => disk.write(1023, Buffer.alloc(513), false)).toThrow('full');
    await disk.write(512, Buffer.alloc(512), false);
    expect(disk.faults).toBe(2);
  });

  it('rejects instead of throwing when told, and heals', async () => {
    const disk = new FaultDevice(new SparseDevice(65_536));
    disk.fail({ rejects: true });
    await expect(disk.flush()).rejects.toThrow('injected');
    disk.heal();
    expect(disk.flush()).toBeUndefined();
  });
});

describe('ShortDevice', () => {
  it('does the first part, then fails or lies', async () => {
    const disk = new SparseDevice(4096);
    const short = new ShortDevice(disk);
    short.cutNext(2, { lies: false });
    expect(() => short.write(0, Buffer.from('abcd'), false)).toThrow('only 2 of 4 bytes');
    short.cutNext(1, { lies: true });
    await short.write(10, Buffer.from('abcd'), false);
    await short.write(20, Buffer.from('abcd'), false);
    expect(disk.bytes.slice(0, 24).toString()).toBe('ab\0\0\0\0\0\0\0\0a\0\0\0\0\0\0\0\0\0abcd');
  });
});

describe('HeldDevice', () => {
  it('answers when told, in any order, and acts when released', async () => {
    const disk = new SparseDevice(4096);
    const held = new HeldDevice(disk);
    const first = held.write(0, Buffer.from('first'), false);
    const second = held.write(0, Buffer.from('again'), false);
    expect(held.lines()).toEqual(['write 0+5', 'write 0+5']);
    expect(disk.bytes.slice(0, 1)[0]).toBe(0);
    await held.waiting[1]?.release();
    expect(await isPending(second)).toBe(false);
    expect(await isPending(first)).toBe(true);
    await held.releaseAll();
    expect(disk.bytes.slice(0, 5).toString()).toBe('first');
    held.holding = false;
    expect(held.flush()).toBeUndefined();
  });

  it('fails a call without effect', async () => {
    const disk = new SparseDevice(4096);
    const held = new HeldDevice(disk);
    const failing = expect(held.write(0, Buffer.from('x'), false)).rejects.toThrow('held write failed');
    await held.waiting[0]?.fail();
    await failing;
    expect(disk.bytes.isWritten(0)).toBe(false);
  });
});

describe('VerifyDevice', () => {
  it('notices a lost write, a stale zero and a torn one', async () => {
    const bottom = new SparseDevice(65_536);
    const short = new ShortDevice(bottom);
    const verify = new VerifyDevice(short, { startsZero: true });
    short.cutNext(100, { lies: true });
    await verify.write(0, Buffer.alloc(512, 7), false);
    await verify.read(0, Buffer.alloc(100));
    expect(() => verify.read(99, Buffer.alloc(2))).toThrow('byte 100 reads as 0, but 7 was written');
    await verify.write(4096, Buffer.alloc(512, 7), false);
    short.cutNext(0, { lies: true });
    await verify.trim(4096, 512, false);
    expect(() => verify.read(4096, Buffer.alloc(1))).toThrow('byte 4096 reads as 7, but 0 was written');
    bottom.bytes.fill(9000, 1, 3);
    expect(() => verify.read(8192, Buffer.alloc(4096))).toThrow('byte 9000');
    expect(verify.checkedBytes).toBeGreaterThan(100);
  });

  it('does not judge what overlaps a change in flight, and judges again after the next one', async () => {
    const held = new HeldDevice(new SparseDevice(65_536));
    const verify = new VerifyDevice(held, { startsZero: true });
    const writes = [verify.write(0, Buffer.alloc(8, 1), false), verify.write(4, Buffer.alloc(8, 2), false)];
    const reading = verify.read(0, Buffer.alloc(16));
    await held.waiting[2]?.release();
    await reading;
    await held.releaseAll();
    for (const write of writes) await write;
    held.holding = false;
    const before = verify.checkedBytes;
    await verify.read(0, Buffer.alloc(16));
    expect(verify.checkedBytes - before).toBe(4);
    await verify.writeZeroes(0, 16, false, false);
    await verify.read(0, Buffer.alloc(16));
    expect(verify.checkedBytes - before).toBe(20);
    await settled();
  });

  it('forgets what a failed change touched', async () => {
    const fault = new FaultDevice(new SparseDevice(65_536));
    const verify = new VerifyDevice(fault, { startsZero: true });
    fault.fail({ times: 1 });
    expect(() => verify.write(0, Buffer.alloc(8, 1), false)).toThrow('injected');
    await verify.read(0, Buffer.alloc(8));
    expect(verify.checkedBytes).toBe(0);
  });
});
