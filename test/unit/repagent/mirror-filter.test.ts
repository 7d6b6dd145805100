// What a guest's change turns into: when it's dirty, when it enters the stream, in which order, and what the guest sees.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../../src/base/limits.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { applyMutation, type Mutation, type MutationKind } from '../../../src/blockdev/mutation.ts';
import { blockDeviceSuite } from '../../support/block-device-suite.ts';
import { pattern } from '../../support/disk-model.ts';
import { RecorderDevice } from '../../support/recorder-device.ts';
import { FaultDevice, HeldDevice, isPending, SparseDevice, settled } from '../../support/test-devices.ts';
import { VolumeRig } from './volume-rig.ts';

const SIZE = 16 * MiB;

function memory(): MemoryDevice {
  return new MemoryDevice({ sizeBytes: SIZE });
}

/** A rig over a device that holds every call. */
function held(): { rig: VolumeRig; device: HeldDevice } {
  const device = new HeldDevice(memory());
  const rig = new VolumeRig(device);
  rig.connect();
  rig.ack();
  return { rig, device };
}

/** One of each: a kind that is missing here doesn't compile. */
const EACH: Readonly<Record<MutationKind, Mutation>> = {
  write: { kind: 'write', offset: 512, data: pattern(1024, 1), fua: true },
  writeZeroes: { kind: 'writeZeroes', offset: 4096, length: 8192, fua: false, mayTrim: true },
  trim: { kind: 'trim', offset: 65_536, length: 512, fua: false },
  flush: { kind: 'flush' },
};
const EACH_SENT: Readonly<Record<MutationKind, string>> = {
  write: 'write 512+1024',
  writeZeroes: 'zero 4096+8192',
  trim: 'trim 65536+512',
  flush: 'flush',
};
const KINDS = Object.keys(EACH) as MutationKind[];

// Off and on: the filter must be a good disk whether a hub follows or not.
for (const follows of [false, true]) {
  blockDeviceSuite(`mirroring filter ${follows ? 'with' : 'without'} a hub`, async ({ sizeBytes }) => {
    const rig = new VolumeRig(new MemoryDevice({ sizeBytes }));
    if (follows) rig.connect();
    return { device: rig.filter, cleanup: async () => rig.disconnect() };
  });
}

describe('the guest', () => {
  for (const kind of KINDS) {
    it(`gets the answer of a ${kind} at once while the device answers at once`, () => {
      const rig = new VolumeRig(memory());
      expect(applyMutation(rig.filter, EACH[kind])).toBeUndefined();
      rig.connect();
      expect(applyMutation(rig.filter, EACH[kind])).toBeUndefined();
      rig.disconnect();
      expect(applyMutation(rig.filter, EACH[kind])).toBeUndefined();
      rig.connect(false);
      expect(applyMutation(rig.filter, EACH[kind])).toBeUndefined();
    });

    it(`has its ${kind} mirrored once, after it took effect`, async () => {
      const { rig, device } = held();
      await rig.sent();
      const answer = applyMutation(rig.filter, EACH[kind]);
      expect(await rig.sent()).toEqual([]);
      expect(await isPending(answer)).toBe(true);
      await device.waiting[0]!.release();
      await answer;
      expect(await rig.sent()).toEqual([EACH_SENT[kind]]);
    });

    it(`gets the error of a ${kind} that fails, at once or later`, async () => {
      const faulty = new FaultDevice(memory());
      const rig = new VolumeRig(faulty);
      rig.connect();
      await rig.sent();
      rig.ack();
      faulty.fail({ times: 1 });
      expect(() => applyMutation(rig.filter, EACH[kind])).toThrow(BlockError);
      faulty.fail({ times: 1, rejects: true });
      await expect(applyMutation(rig.filter, EACH[kind])).rejects.toThrow(BlockError);
      const failed = { write: 'failed 512+1024', writeZeroes: 'failed 4096+8192', trim: 'failed 65536+512' };
      expect(await rig.sent()).toEqual(kind === 'flush' ? [] : [failed[kind], failed[kind]]);
      expect(rig.volume.map.dirtyBytes).toBe(kind === 'flush' ? 0 : CHUNK);
      rig.ack();
      expect(rig.volume.map.dirtyBytes).toBe(0);
    });
  }

  it('sees limits of whole sectors, and everything else as below', () => {
    const rig = new VolumeRig(memory());
    expect(rig.filter.limits).toEqual({ ...memory().limits, minBlockBytes: 512 });
    expect(rig.filter.sizeBytes).toBe(SIZE);
  });

  it('has reads, cache and extents passed through, unmirrored', async () => {
    const recorder = new RecorderDevice(memory());
    const rig = new VolumeRig(recorder);
    rig.connect();
    await rig.sent();
    void rig.filter.read(512, Buffer.alloc(512));
    void rig.filter.cache(0, 4096);
    void rig.filter.extents(0, 4096);
    expect(recorder.take()).toEqual(['read 512+512', 'cache 0+4096', 'extents 0+4096']);
    expect(await rig.sent()).toEqual([]);
  });

  it('has flags passed on as they are', () => {
    const recorder = new RecorderDevice(memory());
    const rig = new VolumeRig(recorder);
    rig.connect();
    void rig.filter.write(0, pattern(512, 1), true);
    void rig.filter.trim(0, 512, true);
    void rig.filter.writeZeroes(0, 512, true, true);
    void rig.filter.writeZeroes(0, 512, false, false);
    expect(recorder.take()).toEqual([
      'write 0+512 fua',
      'trim 0+512 fua',
      'writeZeroes 0+512 fua mayTrim',
      'writeZeroes 0+512',
    ]);
  });

  it('changes nothing with a change of nothing', async () => {
    const rig = new VolumeRig(memory());
    rig.connect();
    rig.ack();
    await rig.sent();
    void rig.filter.write(0, Buffer.alloc(0), false);
    void rig.filter.trim(0, 0, false);
    void rig.filter.writeZeroes(0, 0, false, true);
    expect(await rig.sent()).toEqual([]);
    expect(rig.volume.map.dirtyBytes).toBe(0);
  });
});

describe('the order', () => {
  it('of overlapping changes is that of their arrival, whatever the device does', async () => {
    const { rig, device } = held();
    await rig.sent();
    const first = rig.filter.write(0, pattern(4096, 1), false);
    const second = rig.filter.trim(2048, 4096, false);
    const third = rig.filter.write(4096, pattern(512, 3), false);
    const apart = rig.filter.write(MiB, pattern(512, 4), false);
    expect(device.lines()).toEqual(['write 0+4096', `write ${MiB}+512`]);
    await device.waiting[1]!.release();
    await device.waiting[0]!.release();
    expect(device.lines()).toEqual(['trim 2048+4096']);
    await device.releaseAll();
    await Promise.all([first, second, third, apart]);
    expect(await rig.sent()).toEqual([
      `write ${MiB}+512`,
      'write 0+4096',
      'trim 2048+4096',
      'write 4096+512',
    ]);
  });

  it('of a failed change and what overlaps it is kept too', async () => {
    const { rig, device } = held();
    await rig.sent();
    const first = rig.filter.write(0, pattern(4096, 1), false) as Promise<void>;
    const second = rig.filter.write(512, pattern(512, 2), false);
    const outcome = expect(first).rejects.toThrow();
    await device.waiting[0]!.fail();
    await outcome;
    await device.releaseAll();
    await second;
    expect(await rig.sent()).toEqual(['failed 0+4096', 'write 512+512']);
  });

  it('puts a change into the stream before the guest can know that it is done', async () => {
    const { rig, device } = held();
    const before = rig.stream.sequence;
    const answer = rig.filter.write(0, pattern(512, 1), false) as Promise<void>;
    let seen = -1;
    const watched = answer.then(() => {
      seen = rig.stream.sequence;
    });
    await device.waiting[0]!.release();
    await watched;
    expect(seen).toBe(before + 1);
  });

  it('puts a flush behind every write that was answered before it', async () => {
    const { rig, device } = held();
    await rig.sent();
    const write = rig.filter.write(0, pattern(512, 1), false);
    await device.releaseAll();
    await write;
    const flush = rig.filter.flush();
    const later = rig.filter.write(0, pattern(512, 2), false);
    await device.waiting[1]!.release();
    await later;
    await device.releaseAll();
    await flush;
    expect(await rig.sent()).toEqual(['write 0+512', 'write 0+512', 'flush']);
  });

  it('keeps what the guest wrote, though the guest reuses its buffer at once', async () => {
    const { rig, device } = held();
    const data = pattern(4096, 1);
    const copy = Buffer.from(data);
    const answer = rig.filter.write(0, data, false);
    await device.waiting[0]!.release();
    await answer;
    data.fill(0xdd);
    await rig.turns();
    const [write] = rig.outlet.messages.filter((message) => message.kind === 'protectedWrite');
    expect(write).toMatchObject({ data: copy });
  });

  it("puts the hub's own writes between those that they overlap, and doesn't send them back", async () => {
    const { rig, device } = held();
    await rig.sent();
    const guest = rig.filter.write(0, pattern(1024, 1), false);
    const remote = rig.volume.writeRemotely(512, pattern(1024, 2));
    const again = rig.filter.write(1024, pattern(512, 3), false);
    expect(device.lines()).toEqual(['write 0+1024']);
    await device.waiting[0]!.release();
    expect(device.lines()).toEqual(['write 512+1024']);
    await device.waiting[0]!.release();
    expect(device.lines()).toEqual(['write 1024+512']);
    await device.releaseAll();
    await Promise.all([guest, remote, again]);
    expect(await rig.sent()).toEqual(['write 0+1024', 'write 1024+512']);
  });
});

describe('dirty', () => {
  it('comes before the data', async () => {
    for (const follows of [true, false]) {
      const { rig, device } = held();
      if (!follows) rig.disconnect();
      for (const kind of ['write', 'writeZeroes', 'trim'] as const) {
        const answer = applyMutation(rig.filter, EACH[kind]);
        const { offset, length } = device.waiting[0]!;
        expect(rig.volume.map.isDirty(offset, length)).toBe(true);
        await device.releaseAll();
        await answer;
      }
    }
  });

  it('is what was in flight when the stream ended', async () => {
    const { rig, device } = held();
    await rig.sent();
    const answer = rig.filter.write(3 * CHUNK, pattern(512, 1), false);
    rig.disconnect();
    await device.releaseAll();
    await answer;
    expect(rig.volume.map.dirtyBytes).toBe(CHUNK);
    rig.connect(true, 1);
    expect(await rig.sent()).toEqual([`dirty ${3 * CHUNK}+${CHUNK}`]);
  });

  it('is what was in flight when the stream began, until it came by the stream', async () => {
    const device = new HeldDevice(memory());
    const rig = new VolumeRig(device);
    rig.connect();
    rig.ack();
    rig.disconnect();
    const answer = rig.filter.write(0, pattern(512, 1), false);
    rig.connect(true, 1);
    rig.ack();
    expect(rig.volume.map.dirtyBytes).toBe(CHUNK);
    await device.releaseAll();
    await answer;
    expect(rig.volume.map.dirtyBytes).toBe(CHUNK);
    expect(await rig.sent()).toEqual([`dirty 0+${CHUNK}`, 'write 0+512']);
    rig.ack();
    expect(rig.volume.map.dirtyBytes).toBe(0);
  });

  it('is everything for another hub, or another life of it, or one that claims what never was', async () => {
    for (const [hubKey, resume] of [
      ['hub:1', null],
      ['hub:2', 1],
      ['hub:1', 99],
    ] as const) {
      const rig = new VolumeRig(memory());
      rig.connect();
      rig.ack();
      rig.disconnect();
      await rig.sent();
      rig.connect(true, resume, hubKey);
      expect(await rig.sent()).toEqual([`dirty 0+${SIZE}`]);
    }
  });

  it('is only what the same hub lacks', async () => {
    const rig = new VolumeRig(memory());
    rig.connect();
    rig.ack();
    void rig.filter.write(0, pattern(512, 1), false);
    void rig.filter.write(2 * CHUNK, pattern(512, 2), false);
    await rig.sent();
    rig.disconnect();
    void rig.filter.write(5 * CHUNK, pattern(512, 3), false);
    // The hub has 1 and 2, not 3. Both are in one generation: what isn't known to be there is named again.
    rig.connect(true, 2);
    expect(await rig.sent()).toEqual([`dirty 0+${CHUNK} ${2 * CHUNK}+${CHUNK} ${5 * CHUNK}+${CHUNK}`]);
    rig.disconnect();
    rig.connect(true, rig.stream.sequence);
    expect(await rig.sent()).toEqual(['dirty']);
    expect(rig.volume.map.dirtyBytes).toBe(3 * CHUNK);
    rig.ack();
    expect(rig.volume.map.dirtyBytes).toBe(0);
  });
});

describe('a full queue', () => {
  it('turns changes into a list, without the guest noticing, and the stream goes on after it', async () => {
    const rig = new VolumeRig(memory(), 64 * KiB);
    rig.connect();
    rig.ack();
    expect(await rig.sent()).toEqual([`dirty 0+${SIZE}`]);
    rig.outlet.taking = false;
    for (let at = 0; at < 30; at += 1)
      expect(rig.filter.write(at * CHUNK, pattern(4096, at), false)).toBeUndefined();
    expect(rig.volume.mode).toBe('degraded');
    expect(rig.stream.queue.bytes).toBeLessThanOrEqual(64 * KiB);
    void rig.filter.write(0, pattern(512, 99), false);
    void rig.filter.flush();
    void rig.filter.trim(31 * CHUNK, 512, false);
    await rig.turns();
    rig.outlet.taking = true;
    rig.outlet.take();
    expect(rig.volume.mode).toBe('on');
    void rig.filter.write(40 * CHUNK, pattern(512, 100), false);
    const sent = await rig.sent();
    expect(sent.slice(0, 15)).toEqual(Array.from({ length: 15 }, (_, at) => `write ${at * CHUNK}+4096`));
    const list = sent.slice(15);
    expect(list).toEqual([
      `dirty 0+${CHUNK} ${15 * CHUNK}+${15 * CHUNK} ${31 * CHUNK}+${CHUNK}`,
      `write ${40 * CHUNK}+512`,
    ]);
    expect(rig.seen).toEqual(['overflowed', 'recovered']);
    rig.ack();
    expect(rig.volume.map.dirtyBytes).toBe(0);
  });

  it('covers changes that were in flight while it was full', async () => {
    const device = new HeldDevice(memory());
    const rig = new VolumeRig(device, 8 * KiB);
    rig.connect();
    await rig.sent();
    rig.ack();
    const early = rig.filter.write(CHUNK, pattern(512, 1), false);
    device.holding = false;
    void rig.filter.write(0, pattern(8 * KiB, 2), false);
    expect(rig.volume.mode).toBe('degraded');
    device.holding = true;
    const late = rig.filter.write(3 * CHUNK, pattern(512, 3), false);
    await rig.turns();
    expect(rig.volume.mode).toBe('on');
    await device.waiting[0]!.release();
    await early;
    // What began while it was full is in the list though it is in flight, and comes by the stream too.
    expect(await rig.sent()).toEqual([`dirty 0+${CHUNK} ${3 * CHUNK}+${CHUNK}`, `write ${CHUNK}+512`]);
    rig.ack();
    expect(rig.volume.map.isDirty(3 * CHUNK, 512)).toBe(true);
    await device.releaseAll();
    await late;
    expect(await rig.sent()).toEqual([`write ${3 * CHUNK}+512`]);
    rig.ack();
    expect(rig.volume.map.dirtyBytes).toBe(0);
  });
});

describe('a mirror that goes wrong', () => {
  const damages: Array<[string, (rig: VolumeRig) => void]> = [
    ['at the map, before', (rig) => Object.assign(rig.volume.map, { begin: thrower })],
    [
      'at the map, after',
      (rig) => Object.assign(rig.volume.map, { complete: once(rig.volume.map.complete) }),
    ],
    ['at the stream', (rig) => Object.assign(rig.stream, { write: thrower, zero: thrower, failed: thrower })],
    ['at the queue', (rig) => Object.assign(rig.stream.queue, { push: thrower })],
  ];
  for (const [where, damage] of damages) {
    it(`${where} does not reach the guest, and leaves nothing unknown`, async () => {
      const faulty = new FaultDevice(memory());
      const rig = new VolumeRig(faulty);
      rig.connect();
      rig.ack();
      damage(rig);
      for (const kind of KINDS) expect(applyMutation(rig.filter, EACH[kind])).toBeUndefined();
      expect(rig.faults.length).toBeGreaterThan(0);
      expect(rig.volume.mode).toBe('off');
      expect(rig.volume.health.lastError).toContain('the mirror failed: broken');
      faulty.fail({ times: 1 });
      expect(() => rig.filter.write(0, pattern(512, 1), false)).toThrow('injected fault');
      await settled();
      if (where !== 'at the map, after') {
        expect(rig.volume.map.isDirty(512, 512)).toBe(true);
        expect(rig.volume.map.isDirty(65_536, 512)).toBe(true);
      }
    });
  }
});

describe('close', () => {
  it('waits for what is in flight and what waits for its turn, then closes the device, once', async () => {
    const sparse = new SparseDevice(SIZE);
    const device = new HeldDevice(sparse);
    const rig = new VolumeRig(device);
    rig.connect();
    const first = rig.filter.write(0, pattern(512, 1), false);
    const second = rig.filter.write(0, pattern(512, 2), false);
    const closing = rig.filter.close();
    expect(rig.filter.close()).toBe(closing);
    expect(await isPending(closing)).toBe(true);
    await device.waiting[0]!.release();
    expect(await isPending(closing)).toBe(true);
    expect(sparse.closes).toBe(0);
    await device.releaseAll();
    await Promise.all([first, second, closing]);
    expect(sparse.closes).toBe(1);
    expect(sparse.bytes.slice(0, 512)).toEqual(pattern(512, 2));
    expect(await rig.sent()).toEqual([`dirty 0+${SIZE}`, 'write 0+512', 'write 0+512']);
  });
});

function thrower(): never {
  throw new Error('broken');
}

/** Does what it should, but not without throwing. */
function once<A extends unknown[]>(method: (...args: A) => void): (this: unknown, ...args: A) => void {
  return function damaged(this: unknown, ...args: A): void {
    method.apply(this, args);
    throw new Error('broken');
  };
}
