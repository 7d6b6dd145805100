// Delays of guests' changes: how long, for whom, and that nobody waits for longer, whatever happens meanwhile.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { GuestThrottle } from '../../../src/repagent/guest-throttle.ts';
import { volumeStatus } from '../../../src/repagent/volume-status.ts';
import { VolumeRig } from './volume-rig.ts';

describe('GuestThrottle', () => {
  it.each([
    [0, 0],
    [500, 0],
    [502, 0],
    [520, 1],
    [701, 10],
    [899, 19],
    [900, 20],
    [1000, 20],
  ])('of a queue of 1000 bytes with %i in it delays by %i ms', (bytes, delayMs) => {
    expect(new GuestThrottle({ bytes, limitBytes: 1000 }, 20, () => true).delayMs).toBe(delayMs);
    expect(new GuestThrottle({ bytes, limitBytes: 1000 }, 20, () => false).delayMs).toBe(0);
  });
});

describe('a volume whose owner allowed delays', () => {
  const LIMIT = MiB;
  let rig: VolumeRig;

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    rig = new VolumeRig(new MemoryDevice({ sizeBytes: 4 * MiB }), LIMIT, undefined, 20);
    rig.connect();
    // Nothing leaves: the queue only fills.
    rig.sender?.stop();
  });
  afterEach(() => {
    rig.disconnect();
    vi.useRealTimers();
  });

  /** Fills the queue by changes that need no delay yet, and a last one. */
  function fillTo(share: number): void {
    while (rig.stream.queue.bytes < (share * LIMIT) / 2) void write(0);
    void write(MiB, share * LIMIT - rig.stream.queue.bytes);
  }

  function write(offset: number, length = 64 * 1024): void | Promise<void> {
    const bytes = Math.floor(length / 512) * 512;
    return rig.filter.write(offset, Buffer.alloc(bytes, 1), false);
  }

  const throttle = () => volumeStatus(rig.volume, 'vm').throttle;

  it('answers at once while there is room', () => {
    expect(write(0)).toBeUndefined();
    expect(throttle()).toEqual({ delayMs: 0, maxDelayMs: 20, delayedChanges: 0 });
  });

  it('delays changes before they are made, of reads and flushes none, and says so', async () => {
    fillTo(0.7);
    expect(throttle()?.delayMs).toBe(9);
    const done: string[] = [];
    const note = (what: string) => () => void done.push(what);
    const before = rig.stream.sequence;
    void (write(2 * MiB, 512) as Promise<void>).then(note('write'));
    void (rig.filter.trim(3 * MiB, 512, false) as Promise<void>).then(note('trim'));
    expect(rig.filter.read(0, Buffer.alloc(512))).toBeUndefined();
    expect(rig.filter.flush()).toBeUndefined();
    await vi.advanceTimersByTimeAsync(8);
    expect(done).toEqual([]);
    expect(rig.stream.sequence).toBe(before + 1);
    await vi.advanceTimersByTimeAsync(1);
    expect(done).toEqual(['write', 'trim']);
    expect(throttle()?.delayedChanges).toBe(2);
  });

  it('never lets a change wait twice: those that overlap keep their order within the bound', async () => {
    fillTo(0.95);
    const order: number[] = [];
    for (let at = 0; at < 5; at += 1) void (write(2 * MiB, 512) as Promise<void>).then(() => order.push(at));
    await vi.advanceTimersByTimeAsync(19);
    expect(order).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    await vi.advanceTimersByTimeAsync(0);
    expect(order).toEqual([0, 1, 2, 3, 4]);
  });

  it('degrades all the same when that is not enough, and delays nobody from then on', async () => {
    fillTo(0.98);
    for (let at = 0; at < 8; at += 1) void write(2 * MiB + at * 65_536);
    await vi.advanceTimersByTimeAsync(20);
    expect(rig.seen).toEqual(['overflowed']);
    expect(throttle()?.delayMs).toBe(0);
    expect(write(0)).toBeUndefined();
  });

  it('lets those who wait go on when the link is lost', async () => {
    fillTo(0.95);
    let isDone = false;
    void (write(2 * MiB, 512) as Promise<void>).then(() => {
      isDone = true;
    });
    rig.disconnect();
    expect(write(3 * MiB, 512)).toBeUndefined();
    await vi.advanceTimersByTimeAsync(20);
    expect(isDone).toBe(true);
    expect(rig.volume.map.isDirty(2 * MiB, 512)).toBe(true);
  });

  it('closes after those who wait', async () => {
    fillTo(0.95);
    const data = Buffer.alloc(512, 9);
    void rig.filter.write(2 * MiB, data, false);
    const closing = rig.filter.close();
    await vi.advanceTimersByTimeAsync(20);
    await closing;
    expect(rig.volume.lastSequence).toBe(rig.stream.sequence);
  });
});
