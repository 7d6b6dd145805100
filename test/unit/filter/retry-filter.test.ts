import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import { FaultDevice, RecorderDevice, SparseDevice } from '../../support/test-devices.ts';

let spy: RecorderDevice;
let fault: FaultDevice;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  spy = new RecorderDevice(new SparseDevice(65_536));
  fault = new FaultDevice(spy);
});
afterEach(() => {
  vi.useRealTimers();
});

for (const rejects of [false, true]) {
  it(`makes a call again until it succeeds (rejects ${rejects})`, async () => {
    const { chain, context } = await filterChain(fault, ['retry,delay=100ms']);
    fault.fail({ times: 3, rejects });
    const write = chain.write(0, Buffer.alloc(512, 7), false);
    for (const [ms, faults] of [
      [99, 1],
      [1, 2],
      [199, 2],
      [1, 3],
      [399, 3],
    ] as const) {
      await vi.advanceTimersByTimeAsync(ms);
      expect(fault.faults).toBe(faults);
    }
    expect(context.status().retry).toMatchObject({ waiting: 1, retries: 2, recovered: 0 });
    await vi.advanceTimersByTimeAsync(1);
    await write;
    expect(spy.lines()).toEqual(['write 0+512']);
    expect(context.status().retry).toMatchObject({ waiting: 0, retries: 3, recovered: 1, gaveUp: 0 });
  });
}

it('gives up after so many times, with the last error, and waits no longer than told', async () => {
  const { chain, context } = await filterChain(fault, ['retry,retries=4,delay=1s,max-delay=2s']);
  fault.fail();
  const failed = expect(chain.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: 'EIO' });
  await vi.advanceTimersByTimeAsync(6999);
  expect(fault.faults).toBe(4);
  await vi.advanceTimersByTimeAsync(1);
  await failed;
  expect([fault.faults, context.status().retry]).toEqual([5, expect.objectContaining({ gaveUp: 1 })]);
});

it('tells other errors at once', async () => {
  const disk = await filtered(fault, 'retry');
  fault.fail({ times: 1, error: new BlockError('ENOSPC', 'full') });
  await expect(Promise.resolve(disk.write(0, Buffer.alloc(512), false))).rejects.toMatchObject({
    code: 'ENOSPC',
  });
  const patient = await filtered(fault, 'retry,error=ENOSPC,delay=1s');
  fault.fail({ times: 1, error: new BlockError('ENOSPC', 'full') });
  const write = patient.write(0, Buffer.alloc(512), false);
  await vi.advanceTimersByTimeAsync(1000);
  await write;
});

it('never makes a failed flush again, nor the flush of a change that is to be durable', async () => {
  const disk = await filtered(fault, 'retry,delay=1s');
  fault.fail({ ops: ['flush'], times: 1 });
  expect(() => disk.flush()).toThrow(expect.objectContaining({ code: 'EIO' }) as Error);
  fault.fail({ ops: ['write'], times: 1 });
  fault.fail({ ops: ['flush'], times: 1 });
  const lost = expect(disk.write(0, Buffer.alloc(512), true)).rejects.toMatchObject({ code: 'EIO' });
  await vi.advanceTimersByTimeAsync(60_000);
  await lost;
  expect(spy.take()).toEqual(['write 0+512']);
  await disk.write(0, Buffer.alloc(512), true);
  await disk.trim(0, 512, true);
  await disk.writeZeroes(0, 512, true, true);
  expect(spy.lines()).toEqual([
    'write 0+512',
    'flush',
    'trim 0+512',
    'flush',
    'writeZeroes 0+512 mayTrim',
    'flush',
  ]);
});

it('keeps overlapping changes in order while one of them is made again', async () => {
  const disk = await filtered(fault, 'retry,delay=1s');
  fault.fail({ ops: ['write'], times: 2 });
  const answers = [
    disk.write(0, Buffer.alloc(512, 1), false),
    disk.trim(256, 512, false),
    disk.writeZeroes(4096, 512, false, true),
    disk.read(0, Buffer.alloc(512)),
  ];
  await vi.advanceTimersByTimeAsync(10);
  expect(spy.lines()).toEqual(['writeZeroes 4096+512 mayTrim', 'read 0+512']);
  await vi.advanceTimersByTimeAsync(3000);
  await Promise.all(answers);
  expect(spy.lines().slice(2)).toEqual(['write 0+512', 'trim 256+512']);
});
