// The pause of a volume: the guard that holds calls, and the pauser that may not forget to let them go.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BlockError, OperationError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { Guard } from '../../../src/filter/guard.ts';
import { Pauser } from '../../../src/filter/pauser.ts';
import { captureLog } from '../../support/capture-log.ts';
import { DiskModel } from '../../support/disk-model.ts';
import { filterChain } from '../../support/filter-chain.ts';
import { operationBatches, runBatch } from '../../support/random-operations.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  RecorderDevice,
  SparseDevice,
  settled,
} from '../../support/test-devices.ts';

const SIZE = 65_536;
const CALLS: Record<string, (disk: BlockDevice) => MaybePromise<unknown>> = {
  read: (disk) => disk.read(0, Buffer.alloc(512)),
  write: (disk) => disk.write(512, Buffer.alloc(512, 1), true),
  flush: (disk) => disk.flush(),
  trim: (disk) => disk.trim(1024, 512, false),
  writeZeroes: (disk) => disk.writeZeroes(2048, 512, true, true),
  cache: (disk) => disk.cache(0, 512),
  extents: (disk) => disk.extents(0, 512),
};

let spy: RecorderDevice;
let guard: Guard;
beforeEach(() => {
  spy = new RecorderDevice(new SparseDevice(SIZE));
  guard = new Guard(spy, { name: 'probe', logger: silentLogger });
});

/** Which calls were begun below. */
async function begun(disk: BlockDevice): Promise<string[]> {
  for (const call of Object.values(CALLS)) void Promise.resolve(call(disk)).catch(() => {});
  await settled();
  return spy.take();
}

describe('a guard that holds', () => {
  it('lets no call through, and then all in order of arrival, before any later one', async () => {
    const direct = await begun(guard);
    expect(direct).toHaveLength(7);
    guard.hold();
    expect(await begun(guard)).toEqual([]);
    const growing = guard.resize(2 * SIZE);
    expect(guard.heldCalls).toBe(8);
    guard.release();
    void guard.read(4096, Buffer.alloc(512));
    expect(spy.take()).toEqual([...direct, 'read 4096+512']);
    await growing;
    expect([guard.sizeBytes, guard.heldCalls]).toEqual([2 * SIZE, 0]);
    expect(guard.flush()).toBeUndefined();
  });

  it('checks a call when it goes on, by the limits and the size of then', async () => {
    guard.hold();
    const outside = guard.write(SIZE, Buffer.alloc(512), false);
    const late = guard.read(2 * SIZE, Buffer.alloc(512));
    const check = expect(late).rejects.toMatchObject({ code: 'EINVAL' });
    await new SparseDevice(SIZE).resize(2 * SIZE);
    await spy.resize(2 * SIZE);
    guard.release();
    await outside;
    await check;
  });

  it('waits for what is in flight, and for nothing else', async () => {
    const held = new HeldDevice(spy);
    const busy = new Guard(held, { name: 'probe', logger: silentLogger });
    const write = busy.write(0, Buffer.alloc(512), false);
    busy.hold();
    const read = busy.read(0, Buffer.alloc(512));
    const rest = busy.drained();
    expect(await isPending(rest)).toBe(true);
    await held.waiting[0]!.release();
    await rest;
    await write;
    expect([held.lines(), await isPending(read)]).toEqual([[], true]);
    busy.release();
    await settled();
    await held.releaseAll();
    await read;
  });

  it('carries held calls out before it closes', async () => {
    guard.hold();
    const write = guard.write(0, Buffer.alloc(512), false);
    await guard.close();
    await write;
    expect([spy.lines(), spy.closes]).toEqual([['write 0+512'], 1]);
    expect(() => guard.hold()).toThrow(expect.objectContaining({ code: 'ESHUTDOWN' }));
  });

  it('does what a plain array does when it is held and released between random bursts', async () => {
    const property = fc.asyncProperty(operationBatches(SIZE, 8), async (batches) => {
      const disk = new Guard(new SparseDevice(SIZE), { name: 'probe', logger: silentLogger });
      const model = new DiskModel(SIZE);
      for (const batch of batches) {
        disk.hold();
        const run = runBatch(disk, model, batch);
        setImmediate(() => disk.release());
        await run;
        const all = Buffer.alloc(SIZE, 1);
        await disk.read(0, all);
        expect(model.firstDifference(all)).toBe(-1);
      }
    });
    await fc.assert(property, { numRuns: 30 });
  });
});

describe('a pauser', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function pauserOver(device: BlockDevice) {
    const log = captureLog();
    const target = new Guard(device, { name: 'probe', logger: silentLogger });
    return { target, log, pauser: new Pauser(target, log.logger) };
  }

  it('acknowledges at rest, flushes when told to, and lets go', async () => {
    const { target, pauser } = pauserOver(spy);
    expect(pauser.status()).toBeUndefined();
    await pauser.pause({ timeoutMs: 1000, flush: true });
    expect(spy.take()).toEqual(['flush']);
    const write = target.write(0, Buffer.alloc(512), false);
    await vi.advanceTimersByTimeAsync(400);
    expect(pauser.status()).toEqual({ pausedMs: 400, leftMs: 600, waitingCalls: 1, isQuiet: true });
    expect(spy.calls).toEqual([]);
    expect(pauser.resume()).toBe(400);
    await write;
    expect(pauser.status()).toBeUndefined();
    await pauser.pause({ timeoutMs: 1000, flush: false });
    expect(spy.take()).toEqual(['write 0+512']);
    pauser.resume();
  });

  it('goes on by itself at the deadline, and tells whoever relied on it', async () => {
    const { target, pauser, log } = pauserOver(spy);
    await pauser.pause({ timeoutMs: 1000, flush: false });
    const write = target.write(0, Buffer.alloc(512), false);
    await vi.advanceTimersByTimeAsync(999);
    expect(spy.calls).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    await write;
    expect(log.lines().map(({ msg }) => msg)).toContain(
      'the pause ended by itself: nobody resumed it within 1s',
    );
    await vi.advanceTimersByTimeAsync(5000);
    expect(() => pauser.resume()).toThrow(
      'the volume is not paused any more: the pause came to its deadline 5s ago',
    );
    await pauser.pause({ timeoutMs: 1000, flush: false });
    pauser.resume();
    expect(() => pauser.resume()).toThrow(/^the volume is not paused$/);
  });

  it('gives up at the deadline when what is in flight does not end', async () => {
    const held = new HeldDevice(spy);
    const { target, pauser } = pauserOver(held);
    const stuck = target.write(0, Buffer.alloc(512), false);
    const pausing = pauser.pause({ timeoutMs: 1000, flush: false });
    const refused = expect(pausing).rejects.toThrow('in flight did not end within 1s');
    const read = target.read(0, Buffer.alloc(512));
    await vi.advanceTimersByTimeAsync(999);
    expect([held.lines(), pauser.status()?.isQuiet]).toEqual([['write 0+512'], false]);
    await vi.advanceTimersByTimeAsync(1);
    await refused;
    expect(held.lines()).toEqual(['write 0+512', 'read 0+512']);
    await held.releaseAll();
    await Promise.all([stuck, read]);
  });

  it('ends when whoever asked leaves before it is acknowledged, and not after', async () => {
    const held = new HeldDevice(spy);
    const { target, pauser } = pauserOver(held);
    const stuck = target.write(0, Buffer.alloc(512), false);
    const gone = new AbortController();
    const refused = expect(
      pauser.pause({ timeoutMs: 1000, flush: false, signal: gone.signal }),
    ).rejects.toThrow('whoever asked for the pause has gone');
    gone.abort();
    await refused;
    expect(pauser.status()).toBeUndefined();
    await held.releaseAll();
    await stuck;
    const later = new AbortController();
    await pauser.pause({ timeoutMs: 1000, flush: false, signal: later.signal });
    later.abort();
    expect(pauser.status()?.isQuiet).toBe(true);
    const early = pauser.pause({ timeoutMs: 1000, flush: false, signal: AbortSignal.abort() });
    await expect(early).rejects.toThrow('is paused already');
    pauser.resume();
  });

  it('goes on when the flush fails', async () => {
    const fault = new FaultDevice(spy);
    fault.fail({ ops: ['flush'], error: new BlockError('EIO', 'the disk is broken') });
    const { target, pauser } = pauserOver(fault);
    const failed = pauser.pause({ timeoutMs: 1000, flush: true });
    await expect(failed).rejects.toThrow("the volume can't be paused: the disk is broken");
    await expect(failed).rejects.toBeInstanceOf(OperationError);
    expect(target.read(0, Buffer.alloc(512))).toBeUndefined();
  });

  it('belongs to one at a time', async () => {
    const { pauser } = pauserOver(spy);
    await pauser.pause({ timeoutMs: 1000, flush: false });
    const second = pauser.pause({ timeoutMs: 60_000, flush: false });
    await expect(second).rejects.toThrow('the volume is paused already, for another 1s at most');
    await vi.advanceTimersByTimeAsync(1000);
    expect(pauser.status()).toBeUndefined();
  });

  it('closes: nothing is held any more, nor ever again', async () => {
    const { target, pauser } = pauserOver(spy);
    await pauser.pause({ timeoutMs: 1000, flush: false });
    const write = target.write(0, Buffer.alloc(512), false);
    pauser.close();
    await write;
    await expect(pauser.pause({ timeoutMs: 1000, flush: false })).rejects.toThrow('is being closed');
    await target.close();
  });
});

describe('filter pause', () => {
  it('marks the guard that holds, wherever it stands', async () => {
    const { chain } = await filterChain(spy, ['align,block=4K', 'pause', 'stats']);
    const marked = chain.find('pause')!;
    expect(marked).toBeInstanceOf(Guard);
    marked.hold();
    const write = chain.write(0, Buffer.alloc(1, 7), false);
    await settled();
    expect([spy.lines(), marked.heldCalls]).toEqual([[], 1]);
    marked.release();
    await write;
    expect(spy.lines()).toEqual(['read 0+4096', 'write 0+4096']);
    expect(chain.find('none')).toBeUndefined();
  });
});
