import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { filtered } from '../../support/filter-chain.ts';
import { FaultDevice, PatternDevice, patternBytes, RecorderDevice } from '../../support/test-devices.ts';

const SIZE = 65_536;
let spy: RecorderDevice;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  spy = new RecorderDevice(new PatternDevice(SIZE));
});
afterEach(() => {
  vi.useRealTimers();
});

const CALLS: Record<string, (disk: BlockDevice) => MaybePromise<unknown>> = {
  read: (disk) => disk.read(0, Buffer.alloc(512)),
  write: (disk) => disk.write(0, Buffer.alloc(512), false),
  flush: (disk) => disk.flush(),
  trim: (disk) => disk.trim(0, 512, false),
  zero: (disk) => disk.writeZeroes(0, 512, false, true),
};

for (const [option, call] of Object.entries(CALLS)) {
  it(`${option}= delays that operation before it reaches the disk, and no other`, async () => {
    const disk = await filtered(spy, `delay,${option}=50ms`);
    const answer = call(disk);
    await vi.advanceTimersByTimeAsync(49);
    expect(spy.calls).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(spy.calls).toHaveLength(1);
    await answer;
    for (const [other, callOther] of Object.entries(CALLS)) {
      if (other !== option) expect(callOther(disk)).toBeUndefined();
    }
    expect(disk.cache(0, 512)).toBeUndefined();
    expect(disk.extents(0, 512)).not.toBeInstanceOf(Promise);
  });
}

it('gives the answer of the disk, good or bad', async () => {
  const fault = new FaultDevice(spy);
  const disk = await filtered(fault, 'delay,read=1s');
  const target = Buffer.alloc(64);
  const good = disk.read(512, target);
  await vi.advanceTimersByTimeAsync(1000);
  await good;
  expect(target).toEqual(patternBytes(512, 64));
  fault.fail({ ops: ['read'] });
  const bad = expect(disk.read(0, target)).rejects.toMatchObject({ code: 'EIO' });
  await vi.advanceTimersByTimeAsync(1000);
  await bad;
});

it('lets calls that don’t overlap wait side by side', async () => {
  const disk = await filtered(spy, 'delay,write=50ms');
  const answers = [0, 512, 1024].map((at) => disk.write(at, Buffer.alloc(512, 1), false));
  await vi.advanceTimersByTimeAsync(50);
  for (const answer of answers) await answer;
  expect(spy.calls).toHaveLength(3);
});

it('keeps overlapping changes in order, whatever each one waits', async () => {
  const disk = await filtered(spy, 'delay,write=100ms');
  const answers = [
    disk.write(0, Buffer.alloc(512, 1), false),
    disk.trim(256, 512, false),
    disk.write(512, Buffer.alloc(512, 2), false),
    disk.trim(4096, 512, false),
  ];
  expect(spy.lines()).toEqual(['trim 4096+512']);
  await vi.advanceTimersByTimeAsync(1000);
  for (const answer of answers) await answer;
  expect(spy.lines()).toEqual(['trim 4096+512', 'write 0+512', 'trim 256+512', 'write 512+512']);
});

it('waits for delayed calls when it is closed', async () => {
  const disk = await filtered(spy, 'delay,write=100ms');
  const answer = disk.write(0, Buffer.alloc(512, 1), false);
  const closing = disk.close();
  await vi.advanceTimersByTimeAsync(99);
  expect(spy.closes).toBe(0);
  await vi.advanceTimersByTimeAsync(1);
  await Promise.all([answer, closing]);
  expect(spy.lines()).toEqual(['write 0+512']);
  expect(spy.closes).toBe(1);
});

describe('jitter', () => {
  async function waits(spec: string, count = 40): Promise<number[]> {
    const disk = await filtered(new PatternDevice(SIZE), spec);
    const spans: number[] = [];
    for (let index = 0; index < count; index += 1) {
      let answered = false;
      let waitedMs = 0;
      void Promise.resolve(disk.read(0, Buffer.alloc(1))).then(() => {
        answered = true;
      });
      for (; waitedMs < 1000; waitedMs += 1) {
        await vi.advanceTimersByTimeAsync(0);
        if (answered) break;
        await vi.advanceTimersByTimeAsync(1);
      }
      spans.push(waitedMs);
    }
    return spans;
  }

  it('adds up to so much, at random', async () => {
    const spans = await waits('delay,read=10ms,jitter=20ms');
    expect(Math.min(...spans)).toBeGreaterThanOrEqual(10);
    expect(Math.max(...spans)).toBeLessThanOrEqual(30);
    expect(new Set(spans).size).toBeGreaterThan(5);
  });

  it('is the same for the same seed', async () => {
    const first = await waits('delay,read=0ms,jitter=100ms,seed=7');
    expect(await waits('delay,read=0ms,jitter=100ms,seed=7')).toEqual(first);
    expect(await waits('delay,read=0ms,jitter=100ms,seed=8')).not.toEqual(first);
  });

  it('is for the operations that are named, no others', async () => {
    const disk = await filtered(spy, 'delay,read=0,jitter=1s');
    expect(disk.write(0, Buffer.alloc(1), false)).toBeUndefined();
  });
});

it('of nothing at all is an error', async () => {
  const refused = filtered(spy, 'delay,jitter=5ms');
  await expect(refused).rejects.toBeInstanceOf(UsageError);
  await expect(refused).rejects.toThrow(
    'filter delay: nothing is delayed; set read, write, flush, trim or zero',
  );
  await expect(filtered(spy, 'delay,read=2h')).rejects.toThrow('allowed is 0ms to 1h00m');
});
