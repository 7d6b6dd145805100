import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { applyMutation, type Mutation } from '../../../src/blockdev/mutation.ts';
import { OrderedDevice } from '../../../src/blockdev/ordered-device.ts';
import { DiskModel } from '../../support/disk-model.ts';
import { HeldDevice, isPending } from '../../support/held-device.ts';
import { applyToModel, operationBatches, toMutation } from '../../support/random-operations.ts';

const SIZE_BYTES = 64 * KiB;

function ordered() {
  const memory = new MemoryDevice({ sizeBytes: SIZE_BYTES });
  const slow = new HeldDevice(memory);
  return { memory, slow, device: new OrderedDevice(slow) };
}

const bytes = (value: number, length = 4 * KiB): Buffer => Buffer.alloc(length, value);

describe('OrderedDevice', () => {
  it('stays synchronous over a device that is', () => {
    const device = new OrderedDevice(new MemoryDevice({ sizeBytes: SIZE_BYTES }));
    expect(device.write(0, bytes(1), false)).toBeUndefined();
    expect(device.write(0, bytes(2), true)).toBeUndefined();
    expect(device.trim(0, 512, false)).toBeUndefined();
    expect(device.writeZeroes(0, 512, false, true)).toBeUndefined();
    expect(device.flush()).toBeUndefined();
    expect(device.inFlight).toBe(0);
  });

  it('holds a change back until the earlier ones that it overlaps have ended', async () => {
    const { slow, device } = ordered();
    void device.write(0, bytes(1), false);
    void device.write(2 * KiB, bytes(2), false);
    void device.trim(5 * KiB, 4 * KiB, false);
    void device.writeZeroes(0, 512, false, false);
    void device.write(32 * KiB, bytes(3), false);
    expect(slow.lines()).toEqual(['write 0+4096', 'write 32768+4096']);
    await slow.waiting[0]!.release();
    expect(slow.lines()).toEqual(['write 32768+4096', 'write 2048+4096', 'writeZeroes 0+512']);
    await slow.waiting[1]!.release();
    expect(slow.lines()).toEqual(['write 32768+4096', 'writeZeroes 0+512', 'trim 5120+4096']);
    await slow.releaseAll();
    expect(device.inFlight).toBe(0);
  });

  it('holds back neither reads nor flushes nor extents', async () => {
    const { slow, device } = ordered();
    void device.write(0, bytes(1), false);
    void device.read(0, bytes(0));
    void device.flush();
    void device.extents(0, 4 * KiB);
    void device.cache(0, 4 * KiB);
    expect(slow.lines()).toEqual(['write 0+4096', 'read 0+4096', 'flush', 'extents 0+4096', 'cache 0+4096']);
    await slow.releaseAll();
  });

  it('tells what is in flight, and drains it', async () => {
    const { slow, device } = ordered();
    expect(device.overlaps(0, SIZE_BYTES)).toBe(false);
    void device.write(8 * KiB, bytes(1), false);
    void device.write(8 * KiB, bytes(2), false);
    expect(device.overlaps(0, 8 * KiB)).toBe(false);
    expect(device.overlaps(0, 8 * KiB + 1)).toBe(true);
    expect(device.inFlight).toBe(2);
    const drained = device.drain();
    await slow.waiting[0]!.release();
    expect(await isPending(drained)).toBe(true);
    await slow.waiting[0]!.release();
    await drained;
    expect(device.overlaps(0, SIZE_BYTES)).toBe(false);
  });

  it('carries out what waits before it closes the device', async () => {
    const { memory, slow, device } = ordered();
    void device.write(0, bytes(1), false);
    void device.write(0, bytes(2), false);
    const closed = device.close();
    expect(device.close()).toBe(closed);
    await slow.waiting[0]!.release();
    expect(await isPending(closed)).toBe(true);
    const before = Buffer.alloc(1);
    memory.read(0, before);
    expect(before[0]).toBe(1);
    await slow.releaseAll();
    await closed;
  });

  it('goes on after a change that failed', async () => {
    const { memory, slow, device } = ordered();
    const first = device.write(0, bytes(1), false) as Promise<void>;
    const second = device.write(0, bytes(2), false);
    const failure = expect(first).rejects.toThrow('held write failed');
    await slow.waiting[0]!.fail();
    await failure;
    await slow.releaseAll();
    await second;
    const after = Buffer.alloc(1);
    memory.read(0, after);
    expect(after[0]).toBe(2);
  });

  it('ends in arrival order over a device that finishes in any order', async () => {
    const choices = fc.infiniteStream(fc.nat({ max: 1000 }));
    const property = fc.asyncProperty(operationBatches(SIZE_BYTES, 24), choices, async (batches, picks) => {
      const { memory, slow, device } = ordered();
      const model = new DiskModel(SIZE_BYTES);
      const pending: Array<Promise<void>> = [];
      const start = async (mutation: Mutation): Promise<void> => {
        await applyMutation(device, mutation);
        if (mutation.kind === 'write') mutation.data.fill(0xdd);
      };
      for (const batch of batches) {
        for (const operation of batch) {
          const mutation = toMutation(operation, SIZE_BYTES, 512);
          if (!mutation) continue;
          pending.push(start(mutation));
          applyToModel(model, mutation);
        }
        // Some of what waits is let go before the next batch arrives, in any order.
        for (let i = 0; i < 4 && slow.waiting.length > 0; i += 1) await releaseAny(slow, picks);
      }
      while (slow.waiting.length > 0) await releaseAny(slow, picks);
      await Promise.all(pending);
      const actual = Buffer.alloc(SIZE_BYTES);
      memory.read(0, actual);
      expect(model.firstDifference(actual)).toBe(-1);
    });
    await fc.assert(property, { numRuns: 30 });
  });
});

async function releaseAny(slow: HeldDevice, picks: Iterator<number>): Promise<void> {
  const pick = picks.next().value as number;
  await slow.waiting[pick % slow.waiting.length]!.release();
}
