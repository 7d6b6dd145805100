// One disk with the mirrors of two hubs: both hear of the same changes in the same order, a hub's own writes included,
// and what goes wrong with one is nothing to the other.
import { describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { seededRandom } from '../../../src/filter/random.ts';
import { MirrorFilter } from '../../../src/repagent/mirror-filter.ts';
import { blockDeviceSuite } from '../../support/block-device-suite.ts';
import { pattern } from '../../support/disk-model.ts';
import { FaultDevice, HeldDevice, settled } from '../../support/test-devices.ts';
import { VolumeRig } from './volume-rig.ts';

const SIZE = 16 * MiB;

/** Two hubs of one disk; both follow, and neither lacks anything. */
class Twins {
  readonly filter: MirrorFilter;
  readonly a: VolumeRig;
  readonly b: VolumeRig;

  constructor(below: BlockDevice, queueBytes: { readonly a?: number; readonly b?: number } = {}) {
    this.filter = new MirrorFilter(below);
    this.a = new VolumeRig(below, queueBytes.a, this.filter);
    this.b = new VolumeRig(below, queueBytes.b, this.filter);
  }

  static async following(below: BlockDevice, queueBytes?: { a?: number; b?: number }): Promise<Twins> {
    const twins = new Twins(below, queueBytes);
    for (const rig of [twins.a, twins.b]) {
      rig.connect();
      await rig.sent();
      rig.ack();
    }
    return twins;
  }

  get dirty(): readonly [number, number] {
    return [this.a.volume.map.dirtyBytes, this.b.volume.map.dirtyBytes];
  }

  ack(): void {
    this.a.ack();
    this.b.ack();
  }
}

function memory(): MemoryDevice {
  return new MemoryDevice({ sizeBytes: SIZE });
}

blockDeviceSuite('mirroring filter of two hubs', async ({ sizeBytes }) => {
  const twins = await Twins.following(new MemoryDevice({ sizeBytes }));
  return {
    device: twins.filter,
    cleanup: async () => {
      twins.a.disconnect();
      twins.b.disconnect();
    },
  };
});

describe('a change of a guest', () => {
  it('is dirty at both, answered at once, sent to both, and clean at each when that one has it', async () => {
    const { filter, a, b } = await Twins.following(memory());
    expect(filter.write(0, pattern(512, 1), false)).toBeUndefined();
    expect(filter.writeZeroes(CHUNK, 512, false, false)).toBeUndefined();
    expect(filter.trim(2 * CHUNK, 512, false)).toBeUndefined();
    expect(filter.flush()).toBeUndefined();
    const all = ['write 0+512', `zero ${CHUNK}+512`, `trim ${2 * CHUNK}+512`, 'flush'];
    expect(await a.sent()).toEqual(all);
    expect(await b.sent()).toEqual(all);
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([3 * CHUNK, 3 * CHUNK]);
    a.ack();
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([0, 3 * CHUNK]);
    b.ack();
    expect(b.volume.map.dirtyBytes).toBe(0);
  });

  it('that takes its time is counted by itself in every map', async () => {
    const device = new HeldDevice(memory());
    device.holding = false;
    const twins = await Twins.following(device);
    device.holding = true;
    const random = seededRandom(7);
    const answers: Array<Promise<void>> = [];
    for (let left = 40; left > 0; left -= 1) {
      const at = 512 * Math.floor(random() * (SIZE / 512));
      answers.push(Promise.resolve(twins.filter.write(at, pattern(512, left), false)));
      if (random() < 0.5) twins.ack();
      const call = device.waiting[Math.floor(random() * device.waiting.length)];
      if (call && random() < 0.5) await call.release();
    }
    expect(twins.dirty[0]).toBeGreaterThan(0);
    while (device.waiting.length > 0) await device.waiting[0]!.release();
    await Promise.all(answers);
    for (const rig of [twins.a, twins.b]) expect(await rig.sent()).toHaveLength(40);
    // Twice: what began before an acknowledgement and ended after it is of an older generation.
    twins.ack();
    twins.ack();
    expect(twins.dirty).toEqual([0, 0]);
  });

  it('keeps its bytes once for both hubs, until the slower one has taken them', async () => {
    const { filter, a, b } = await Twins.following(memory());
    const before = sharedPool.liveBytes;
    a.outlet.taking = false;
    const slab = sharedPool.acquire(64 * KiB);
    slab.bytes.fill(0x5a);
    void filter.write(0, slab.bytes, false);
    slab.release();
    await b.sent();
    await a.turns();
    expect(sharedPool.liveBytes - before).toBe(64 * KiB);
    a.outlet.take();
    await a.turns();
    expect(sharedPool.liveBytes - before).toBe(0);
  });
});

describe('a write of one hub', () => {
  it('is a change as any to the other, and is not sent back to the one that made it', async () => {
    const { filter, a, b } = await Twins.following(memory());
    const data = pattern(1024, 3);
    expect(a.volume.writeRemotely(CHUNK, data)).toBeUndefined();
    const back = Buffer.alloc(1024);
    void filter.read(CHUNK, back);
    expect(back.equals(data)).toBe(true);
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([0, CHUNK]);
    expect(await a.sent()).toEqual([]);
    expect(await b.sent()).toEqual([`write ${CHUNK}+1024`]);
    b.ack();
    expect(b.volume.map.dirtyBytes).toBe(0);
  });

  it('is dirty at the other before it is on the disk', async () => {
    const device = new HeldDevice(memory());
    device.holding = false;
    const { a, b } = await Twins.following(device);
    device.holding = true;
    const answer = Promise.resolve(a.volume.writeRemotely(0, pattern(512, 1)));
    await settled();
    expect(b.volume.map.isDirty(0, 512)).toBe(true);
    expect(await b.sent()).toEqual([]);
    await device.waiting[0]!.release();
    await answer;
    expect(await b.sent()).toEqual(['write 0+512']);
  });

  it('stays dirty at the other while that one does not follow', async () => {
    const { a, b } = await Twins.following(memory());
    b.disconnect();
    void a.volume.writeRemotely(0, pattern(512, 1));
    expect(b.volume.map.dirtyBytes).toBe(CHUNK);
    b.connect(true, b.stream.sequence);
    expect(await b.sent()).toEqual([`dirty 0+${CHUNK}`]);
  });

  it('that failed is read again by the other', async () => {
    const device = new FaultDevice(memory());
    const { a, b } = await Twins.following(device);
    device.fail({ ops: ['write'], times: 1 });
    expect(() => a.volume.writeRemotely(0, pattern(512, 1))).toThrow();
    expect(await b.sent()).toEqual(['failed 0+512']);
    expect(await a.sent()).toEqual([]);
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([0, CHUNK]);
  });

  it('and overlapping writes of guests have one order, on the disk and for the other', async () => {
    const device = new HeldDevice(memory());
    device.holding = false;
    const { filter, a, b } = await Twins.following(device);
    device.holding = true;
    const answers = [
      Promise.resolve(filter.write(0, pattern(1024, 1), false)),
      Promise.resolve(a.volume.writeRemotely(512, pattern(1024, 2))),
      Promise.resolve(filter.write(1024, pattern(1024, 3), false)),
    ];
    await settled();
    // Only the first one is on its way.
    expect(device.waiting.map(String)).toEqual(['write 0+1024']);
    while (device.waiting.length > 0) await device.waiting[0]!.release();
    await Promise.all(answers);
    expect(await b.sent()).toEqual(['write 0+1024', 'write 512+1024', 'write 1024+1024']);
    expect(await a.sent()).toEqual(['write 0+1024', 'write 1024+1024']);
  });

  it('shows in what the other one watches for a digest', async () => {
    const { a, b } = await Twins.following(memory());
    const watch = b.volume.watches.begin(0, CHUNK);
    void a.volume.writeRemotely(512, pattern(512, 1));
    expect(watch.touched).toBe(true);
    b.volume.watches.end(watch);
  });
});

describe('what goes wrong with one hub', () => {
  it('a full queue sends only its own changes to the map', async () => {
    const { filter, a, b } = await Twins.following(memory(), { a: 2000 });
    a.outlet.taking = false;
    for (let at = 0; at < 8; at += 1) {
      expect(filter.write(at * CHUNK, pattern(512, at), false)).toBeUndefined();
    }
    expect([a.volume.mode, b.volume.mode]).toEqual(['degraded', 'on']);
    expect([a.seen, b.seen]).toEqual([['overflowed'], []]);
    expect(await b.sent()).toHaveLength(8);
    b.ack();
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([8 * CHUNK, 0]);
    a.outlet.taking = true;
    a.outlet.take();
    expect((await a.sent()).at(-1)).toMatch(/^dirty /);
  });

  it('a map that fails costs its own connection', async () => {
    const { filter, a, b } = await Twins.following(memory());
    a.volume.map.begin = () => {
      throw new Error('no memory for bits');
    };
    expect(filter.write(0, pattern(512, 1), false)).toBeUndefined();
    expect([a.faults.length, b.faults.length]).toEqual([1, 0]);
    expect([a.volume.mode, b.volume.mode]).toEqual(['off', 'on']);
    expect(await b.sent()).toEqual(['write 0+512']);
    expect(a.volume.map.isDirty(0, 512)).toBe(true);
  });

  it('its end leaves the other one following', async () => {
    const { filter, a, b } = await Twins.following(memory());
    void filter.write(0, pattern(512, 1), false);
    a.disconnect();
    void filter.write(CHUNK, pattern(512, 2), false);
    expect(await b.sent()).toEqual(['write 0+512', `write ${CHUNK}+512`]);
    b.ack();
    expect([a.volume.map.dirtyBytes, b.volume.map.dirtyBytes]).toEqual([2 * CHUNK, 0]);
  });
});

describe('a disk that becomes larger', () => {
  it('is larger for guests when every hub is known to lack what is new', async () => {
    const { filter, a, b } = await Twins.following(memory());
    await filter.resize(SIZE + MiB);
    expect([filter.sizeBytes, a.volume.sizeBytes, b.volume.sizeBytes]).toEqual([
      SIZE + MiB,
      SIZE + MiB,
      SIZE + MiB,
    ]);
    for (const { volume } of [a, b]) expect(volume.map.isDirty(SIZE, MiB)).toBe(true);
  });
});
