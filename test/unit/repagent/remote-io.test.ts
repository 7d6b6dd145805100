// The hub's own requests: which are refused, what a read may claim of itself, and that guests don't wait for any.
import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { GATHER_BYTES } from '../../../src/repagent/frame-gather.ts';
import { HashResponder } from '../../../src/repagent/hash-responder.ts';
import { RemoteIo } from '../../../src/repagent/remote-io.ts';
import { checkedRange } from '../../../src/repagent/remote-range.ts';
import { RequestWindow } from '../../../src/repagent/request-window.ts';
import { ResyncPace } from '../../../src/repagent/resync-pace.ts';
import type {
  HashRequest,
  HashResponse,
  RemoteIoRequest,
  RemoteIoResponse,
} from '../../../src/repwire/messages.ts';
import { pattern } from '../../support/disk-model.ts';
import { FaultDevice, HeldDevice } from '../../support/test-devices.ts';
import { VolumeRig } from './volume-rig.ts';

const SIZE = 16 * MiB;
const ID = 7n;

/** A volume, and everything that answers a hub. */
class HubSide {
  readonly rig: VolumeRig;
  readonly window: RequestWindow;
  readonly remote: RemoteIo;
  readonly hashes: HashResponder;
  readonly stats = {
    remoteReads: 0,
    remoteReadBytes: 0,
    remoteWrites: 0,
    remoteWriteBytes: 0,
    remoteRefusals: 0,
  };
  readonly pauses: string[] = [];
  isGone = false;

  constructor(
    below: BlockDevice,
    options: { queueBytes?: number; extensions?: boolean; wideReads?: boolean } = {},
  ) {
    this.rig = new VolumeRig(below, options.queueBytes);
    this.rig.connect(options.extensions ?? true);
    this.rig.ack();
    this.window = new RequestWindow({
      pause: () => this.pauses.push('pause'),
      resume: () => this.pauses.push('resume'),
    });
    const shared = {
      stream: this.rig.stream,
      window: this.window,
      // A bound that bounds nothing.
      pace: new ResyncPace(1e12),
      volumeOf: (id: bigint) => (id === ID ? this.rig.volume : undefined),
      onFault: (error: unknown) => this.rig.faults.push(error),
      logger: silentLogger,
    };
    const sender = this.rig.sender!;
    const wideReads = options.wideReads ?? false;
    this.remote = new RemoteIo({
      ...shared,
      wideReads,
      stats: this.stats,
      answer: (answer) => sender.answer(answer),
    });
    this.hashes = new HashResponder(shared);
  }

  read(requestId: number, offset: number, length: number): void {
    this.remote.request(
      request({ requestId, offsetSectors: BigInt(offset / 512), sizeSectors: length / 512 }),
    );
  }

  hash(requestId: number, offset: number, length: number): boolean {
    const message: HashRequest = {
      kind: 'hashRequest',
      requestId,
      volumeId: ID,
      offsetSectors: BigInt(offset / 512),
      sizeSectors: length / 512,
    };
    return this.hashes.request(message);
  }

  async answers(): Promise<RemoteIoResponse[]> {
    await this.rig.turns(10);
    return this.rig.outlet.messages.filter((message) => message.kind === 'remoteIoResponse');
  }

  async digests(): Promise<HashResponse[]> {
    await this.rig.turns(10);
    return this.rig.outlet.messages.filter((message) => message.kind === 'hashResponse');
  }
}

/** A disk that has to be read to know what is in it. */
class Untold extends PassThrough {
  constructor() {
    super(new MemoryDevice({ sizeBytes: SIZE }));
  }

  override get limits(): DeviceLimits {
    return { ...super.limits, cheapExtents: false };
  }
}

/** Notes where it is read. */
class CountingDevice extends PassThrough {
  readonly reads: number[] = [];
  tell: (() => MaybePromise<Extent[]>) | undefined;

  override read(offset: number, target: Buffer): MaybePromise<void> {
    this.reads.push(offset);
    return super.read(offset, target);
  }

  override extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    return this.tell?.() ?? super.extents(offset, length, maxExtents);
  }
}

function request(fields: Partial<RemoteIoRequest>): RemoteIoRequest {
  return {
    kind: 'remoteIoRequest',
    requestId: 1,
    volumeId: ID,
    offsetSectors: 0n,
    sizeSectors: 1,
    isRead: true,
    data: Buffer.alloc(0),
    ...fields,
  };
}

let liveBefore = 0;
let side: HubSide;

beforeEach(() => {
  liveBefore = sharedPool.liveBytes;
  side = new HubSide(new MemoryDevice({ sizeBytes: SIZE }));
});

afterEach(async () => {
  await side.rig.turns(10);
  expect(side.rig.faults).toEqual([]);
  side.remote.stop();
  side.hashes.stop();
  side.rig.disconnect();
  side.rig.outlet.fail();
  await side.rig.turns(10);
  expect(sharedPool.liveBytes).toBe(liveBefore);
  if (side.isGone) return;
  expect([side.window.requests, side.window.bytes]).toEqual([0, 0]);
});

describe('a remote read', () => {
  it('gives the data and the newest sequence', async () => {
    const data = pattern(4096, 1);
    void side.rig.filter.write(8192, data, false);
    side.read(5, 8192, 4096);
    side.read(6, 8192 - 512, 1024);
    const [whole, part] = await side.answers();
    expect(whole).toMatchObject({ requestId: 5, volumeId: ID, status: 0, sequence: 2, allZero: false, data });
    expect(part!.data).toEqual(Buffer.concat([Buffer.alloc(512), data.subarray(0, 512)]));
    expect(side.stats).toMatchObject({ remoteReads: 2, remoteReadBytes: 5120 });
  });

  it('leaves zeroes out, but only where there is nothing else', async () => {
    void side.rig.filter.write(MiB - 512, Buffer.concat([Buffer.alloc(511), Buffer.from([1])]), false);
    side.read(1, 0, MiB);
    side.read(2, MiB, MiB);
    side.read(3, SIZE - 512, 512);
    const answers = (await side.answers()).toSorted((a, b) => a.requestId - b.requestId);
    expect(answers.map((answer) => [answer.requestId, answer.allZero, answer.data.length])).toEqual([
      [1, false, MiB],
      [2, true, 0],
      [3, true, 0],
    ]);
  });

  it('asks the disk for holes before it reads any, where that is cheap', async () => {
    const device = new CountingDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device);
    void side.rig.filter.write(4 * MiB, pattern(4096, 1), false);
    side.read(1, 0, 4 * MiB);
    side.read(2, 4 * MiB, MiB);
    expect(await side.answers()).toMatchObject([
      { requestId: 1, status: 0, sequence: 2, allZero: true },
      { requestId: 2, status: 0, sequence: 2, allZero: false },
    ]);
    expect(device.reads).toEqual([4 * MiB]);
    expect(side.stats).toMatchObject({ remoteReads: 2, remoteReadBytes: 5 * MiB });
  });

  it('reads when the disk can not tell its holes', async () => {
    const memory = new MemoryDevice({ sizeBytes: SIZE });
    const device = new CountingDevice(memory);
    side = new HubSide(device);
    device.tell = () => Promise.reject(new Error('no extents today'));
    side.read(1, 0, MiB);
    expect(await side.answers()).toMatchObject([{ requestId: 1, status: 0, allZero: true }]);
    device.tell = () => [{ offset: 0, length: MiB / 2, hole: true, zero: true }];
    side.read(2, 0, MiB);
    await side.answers();
    expect(device.reads).toEqual([0, 0]);
  });

  it('tells of a hole only when the changes that it may have missed are in the stream', async () => {
    const device = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device);
    const overlapping = side.rig.filter.write(4096, pattern(4096, 1), false);
    side.read(1, 0, 8192);
    await side.rig.turns();
    await device.waiting.find((call) => call.op === 'extents')!.release();
    expect(await side.answers()).toEqual([]);
    await device.releaseAll();
    await overlapping;
    expect(await side.answers()).toMatchObject([{ requestId: 1, sequence: 2, allZero: true }]);
  });

  it('gives an RFC hub its zeroes, and no sequence', async () => {
    side = new HubSide(new MemoryDevice({ sizeBytes: SIZE }), { extensions: false });
    void side.rig.filter.write(0, pattern(512, 1), false);
    side.read(1, 4096, 1024);
    expect(await side.answers()).toMatchObject([
      { status: 0, sequence: 0, allZero: false, data: Buffer.alloc(1024) },
    ]);
  });

  it('waits with its answer for the changes that it may have seen halfway, and for no others', async () => {
    const device = new HeldDevice(new Untold());
    side = new HubSide(device);
    const overlapping = side.rig.filter.write(4096, pattern(4096, 1), false);
    const apart = side.rig.filter.write(MiB, pattern(4096, 2), false);
    side.read(1, 0, 8192);
    await side.rig.turns();
    const read = device.waiting.find((call) => call.op === 'read')!;
    await read.release();
    expect(await side.answers()).toEqual([]);
    // A change that begins only now is not in what was read.
    const later = side.rig.filter.write(0, pattern(512, 3), false);
    await device.waiting.find((call) => call.offset === 4096)!.release();
    await overlapping;
    expect(await side.answers()).toMatchObject([{ requestId: 1, sequence: 2 }]);
    await device.releaseAll();
    await Promise.all([apart, later]);
  });

  it('neither waits for a change that comes after it nor holds it up', async () => {
    const device = new HeldDevice(new Untold());
    side = new HubSide(device);
    side.read(1, 0, 4096);
    await side.rig.turns();
    const write = side.rig.filter.write(0, pattern(512, 1), false);
    expect(device.lines()).toEqual(['read 0+4096', 'write 0+512']);
    await device.releaseAll();
    await write;
    expect(await side.answers()).toMatchObject([{ status: 0 }]);
  });

  it('waits while changes are not mirrored, until the list that names them has its sequence', async () => {
    side = new HubSide(new MemoryDevice({ sizeBytes: SIZE }), { queueBytes: 16 * KiB });
    await side.rig.turns();
    side.rig.outlet.taking = false;
    for (let at = 0; at < 6; at += 1) void side.rig.filter.write(at * 4096, pattern(4096, at), false);
    expect(side.rig.volume.mode).toBe('degraded');
    side.read(1, 0, 8192);
    await side.rig.turns();
    expect(side.stats.remoteReads).toBe(0);
    side.rig.outlet.taking = true;
    side.rig.outlet.take();
    const [answer] = await side.answers();
    const list = side.rig.outlet.messages.filter((message) => message.kind === 'dirty').at(-1)!;
    expect(list.extents).toEqual([{ offset: 0, length: 64 * KiB }]);
    expect(answer!.sequence).toBeGreaterThanOrEqual(list.sequence);
  });

  it('that was under way when changes stopped being mirrored waits too', async () => {
    const device = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device, { queueBytes: 16 * KiB });
    await side.rig.turns();
    side.rig.outlet.taking = false;
    side.read(1, 0, 8192);
    await side.rig.turns();
    device.holding = false;
    for (let at = 0; at < 6; at += 1) void side.rig.filter.write(at * 4096, pattern(4096, at), false);
    await device.waiting[0]!.release();
    await side.rig.turns();
    expect(side.stats.remoteReads).toBe(0);
    side.rig.outlet.taking = true;
    side.rig.outlet.take();
    const [answer] = await side.answers();
    const list = side.rig.outlet.messages.filter((message) => message.kind === 'dirty').at(-1)!;
    expect(answer!.sequence).toBeGreaterThanOrEqual(list.sequence);
  });

  it('that fails says so, without data', async () => {
    const faulty = new FaultDevice(new Untold());
    side = new HubSide(faulty);
    faulty.fail({ times: 1 });
    side.read(1, 0, 4096);
    faulty.fail({ times: 1, rejects: true });
    side.read(2, 0, 4096);
    side.read(3, 0, 4096);
    const answers = await side.answers();
    expect(answers.map(({ requestId, status, data }) => [requestId, status, data.length])).toEqual([
      [1, -1, 0],
      [2, -1, 0],
      [3, 0, 0],
    ]);
  });

  it('has no answer once the connection is gone, and keeps no memory', async () => {
    const device = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device);
    for (let id = 0; id < 40; id += 1) side.read(id, 0, 64 * KiB);
    await side.rig.turns(20);
    expect(device.waiting.length).toBe(16);
    side.remote.stop();
    await device.releaseAll();
    expect(await side.answers()).toEqual([]);
    // The window goes with the connection.
    side.isGone = true;
  });
});

describe('a wide read', () => {
  const wide = (device: BlockDevice): HubSide => new HubSide(device, { wideReads: true });

  it('is answered for a hole as far as that reaches, or else for its start', async () => {
    const device = new CountingDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = wide(device);
    const data = pattern(MiB, 1);
    void side.rig.filter.write(8 * MiB, data, false);
    side.read(1, 0, SIZE);
    side.read(2, 8 * MiB, 8 * MiB);
    side.read(3, 9 * MiB, 7 * MiB);
    side.read(4, 8 * MiB - 4096, 8 * MiB);
    const [hole, start, all, soon] = (await side.answers()).toSorted((a, b) => a.requestId - b.requestId);
    expect(hole).toMatchObject({ status: 0, sequence: 2, allZero: true, answeredBytes: 8 * MiB });
    expect(start).toMatchObject({ status: 0, sequence: 2, allZero: false, answeredBytes: 256 * KiB });
    expect(start!.data).toEqual(data.subarray(0, 256 * KiB));
    expect(all).toMatchObject({ status: 0, allZero: true, answeredBytes: 0 });
    // A hole that is too small to bring the hub on.
    expect(soon).toMatchObject({ allZero: false, answeredBytes: 256 * KiB });
    expect(soon!.data.subarray(4096)).toEqual(data.subarray(0, 256 * KiB - 4096));
    expect(device.reads.toSorted((a, b) => a - b)).toEqual([8 * MiB - 4096, 8 * MiB]);
    expect(side.stats).toMatchObject({ remoteReads: 4, remoteReadBytes: 15 * MiB + 512 * KiB });
  });

  it('takes no more memory than one that is not', async () => {
    const device = new HeldDevice(new Untold());
    side = wide(device);
    for (let id = 0; id < 8; id += 1) side.read(id, 0, SIZE);
    await side.rig.turns(20);
    expect(side.window.bytes).toBe(8 * 2 * MiB);
    expect(device.lines()).toEqual(Array.from({ length: 8 }, () => `read 0+${2 * MiB}`));
    await device.releaseAll();
    const answers = await side.answers();
    expect(answers.map(({ allZero, answeredBytes }) => [allZero, answeredBytes])).toEqual(
      Array.from({ length: 8 }, () => [true, 2 * MiB]),
    );
  });

  it('is refused to a hub that does not know of them', async () => {
    side.read(1, 0, SIZE);
    side.read(2, 0, 4 * MiB);
    expect(await side.answers()).toMatchObject([
      { requestId: 1, status: -1 },
      { requestId: 2, status: 0, allZero: true, answeredBytes: 0 },
    ]);
  });
});

describe('a remote write', () => {
  it('reaches the disk below the mirror, though its bytes are only lent', async () => {
    await side.rig.sent();
    for (const length of [512, 8192]) {
      const data = pattern(length, length);
      const copy = Buffer.from(data);
      side.remote.request(request({ requestId: length, sizeSectors: length / 512, isRead: false, data }));
      data.fill(0xdd);
      await side.rig.turns();
      const target = Buffer.alloc(length);
      void side.rig.filter.read(0, target);
      expect(target).toEqual(copy);
    }
    expect(await side.rig.sent()).toEqual(['remoteIoResponse', 'remoteIoResponse']);
    expect(side.stats).toMatchObject({ remoteWrites: 2, remoteWriteBytes: 8704 });
  });

  it('is refused when its data is not what it says, or the disk is read-only', async () => {
    const data = pattern(1024, 1);
    side.remote.request(request({ requestId: 1, sizeSectors: 1, isRead: false, data }));
    side.remote.request(request({ requestId: 2, sizeSectors: 3, isRead: false, data }));
    side.remote.request(request({ requestId: 3, sizeSectors: 2, isRead: false }));
    expect((await side.answers()).map((answer) => answer.status)).toEqual([-1, -1, -1]);
    side = new HubSide(new MemoryDevice({ sizeBytes: SIZE, readOnly: true }));
    side.remote.request(request({ sizeSectors: 2, isRead: false, data }));
    expect((await side.answers()).map((answer) => answer.status)).toEqual([-1]);
  });

  it('that fails says so', async () => {
    const faulty = new FaultDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(faulty);
    faulty.fail({ times: 1 });
    side.remote.request(request({ isRead: false, data: pattern(512, 1) }));
    expect(await side.answers()).toMatchObject([{ status: -1 }]);
  });
});

describe('a hostile request', () => {
  const cases: Array<[string, Partial<RemoteIoRequest>]> = [
    ['an unknown volume', { volumeId: 8n }],
    ['no size', { sizeSectors: 0 }],
    ['a negative size', { sizeSectors: -1 }],
    ['the most negative size', { sizeSectors: -(2 ** 31) }],
    ['the largest size', { sizeSectors: 2 ** 31 - 1 }],
    ['one sector above the limit', { sizeSectors: (4 * MiB) / 512 + 1 }],
    ['an offset at the end', { offsetSectors: BigInt(SIZE / 512) }],
    ['an end beyond the end', { offsetSectors: BigInt(SIZE / 512 - 1), sizeSectors: 2 }],
    ['an offset of 2^55 sectors, whose bytes overflow', { offsetSectors: 2n ** 55n }],
    ['an offset of 2^63', { offsetSectors: 2n ** 63n }],
    ['the largest offset', { offsetSectors: 2n ** 64n - 1n }],
    ['an offset whose end wraps around', { offsetSectors: 2n ** 64n - 1n, sizeSectors: 2 }],
  ];
  for (const [what, fields] of cases) {
    it(`with ${what} is refused, without data, and takes nothing`, async () => {
      side.remote.request(request({ requestId: -5, ...fields }));
      side.remote.request(request({ requestId: -6, ...fields, isRead: false, data: pattern(512, 1) }));
      const answers = await side.answers();
      expect(answers).toMatchObject([
        { requestId: -5, status: -1, data: Buffer.alloc(0) },
        { requestId: -6, status: -1 },
      ]);
      expect(answers[0]!.volumeId).toBe(fields.volumeId ?? ID);
      expect(side.stats).toMatchObject({ remoteReads: 0, remoteWrites: 0, remoteRefusals: 2 });
    });
  }

  it('to a volume that is closed is refused', async () => {
    side.rig.filter.isClosed = true;
    side.read(1, 0, 512);
    expect(await side.answers()).toMatchObject([{ status: -1 }]);
  });

  it('has its range checked without rounding anything', () => {
    const size = 2 ** 45;
    const at = (offsetSectors: bigint, sizeSectors: number) =>
      checkedRange({ offsetSectors, sizeSectors }, size, MiB);
    expect(at(2n ** 36n - 1n, 1)).toEqual({ offset: size - 512, length: 512 });
    expect(at(2n ** 36n - 1n, 2)).toBeUndefined();
    expect(at(2n ** 36n, 1)).toBeUndefined();
    expect(at(0n, MiB / 512)).toEqual({ offset: 0, length: MiB });
    expect(at(0n, 0.5)).toBeUndefined();
  });
});

describe('the window', () => {
  it('stops reading from a hub that asks for too much, and goes on when half is answered', async () => {
    side.rig.outlet.taking = false;
    for (let id = 0; id < 7; id += 1) side.read(id, 0, 4 * MiB);
    expect(side.pauses).toEqual([]);
    side.read(7, 0, 4 * MiB);
    expect(side.pauses).toEqual(['pause']);
    expect(side.window.isPaused).toBe(true);
    void side.rig.filter.write(0, pattern(512, 1), false);
    for (let round = 0; round < 30; round += 1) {
      await side.rig.turns(2);
      // The guest's write waits too, in memory of its own.
      expect(sharedPool.liveBytes - liveBefore).toBeLessThanOrEqual(32 * MiB + GATHER_BYTES);
      side.rig.outlet.take(1);
    }
    expect(side.pauses).toEqual(['pause', 'resume']);
  });

  it('counts requests too', async () => {
    for (let id = 0; id < 256; id += 1) side.remote.request(request({ volumeId: 99n, requestId: id }));
    expect(side.pauses).toEqual(['pause']);
    await side.rig.turns(20);
    expect(side.pauses).toEqual(['pause', 'resume']);
  });

  it('lets guests go first: a turn serves only a few', async () => {
    for (let id = 0; id < 20; id += 1) side.read(id, 0, 64 * KiB);
    expect(side.stats.remoteReads).toBe(0);
    await side.rig.turns(1);
    expect(side.stats.remoteReads).toBeLessThanOrEqual(2);
    await side.rig.turns(15);
    expect(side.stats.remoteReads).toBe(20);
  });
});

describe('a digest', () => {
  it('travels in the stream, at the place where it is true', async () => {
    const data = pattern(64 * KiB, 1);
    await side.rig.sent();
    void side.rig.filter.write(0, data, false);
    expect(side.hash(9, 0, 64 * KiB)).toBe(true);
    await side.rig.turns(2);
    void side.rig.filter.write(0, pattern(512, 2), false);
    await side.rig.turns(6);
    const kinds = side.rig.outlet.messages.map((message) => message.kind);
    expect(kinds).toEqual(['protectedWrite', 'hashResponse', 'protectedWrite']);
    const digest = createHash('sha256').update(data).digest();
    expect(await side.digests()).toMatchObject([
      { requestId: 9, volumeId: ID, status: 0, sequence: 2, digest },
    ]);
  });

  it('is busy when the range changed while it was read, by the guest or by the hub', async () => {
    const device = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device);
    const change = [
      () => side.rig.filter.write(4096, pattern(512, 1), false),
      () => side.rig.filter.trim(0, 512, false),
      () => side.rig.volume.writeRemotely(8192 - 512, pattern(1024, 1)),
    ];
    for (const [id, begin] of change.entries()) {
      side.hash(id, 0, 8192);
      await side.rig.turns();
      device.holding = false;
      expect(begin()).toBeUndefined();
      device.holding = true;
      await device.releaseAll();
    }
    side.hash(10, 0, 8192);
    await side.rig.turns();
    device.holding = false;
    void side.rig.filter.write(8192, pattern(512, 1), false);
    await device.releaseAll();
    expect((await side.digests()).map(({ requestId, status }) => [requestId, status])).toEqual([
      [0, 1],
      [1, 1],
      [2, 1],
      [10, 0],
    ]);
  });

  it('waits for the changes in flight before it reads, and is busy when others follow', async () => {
    const device = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(device);
    const data = pattern(4096, 1);
    const first = side.rig.filter.write(0, data, false);
    side.hash(1, 0, 4096);
    await side.rig.turns();
    expect(device.lines()).toEqual(['write 0+4096']);
    await device.waiting[0]!.release();
    await first;
    await side.rig.turns();
    await device.releaseAll();
    const [answer] = await side.digests();
    expect(answer).toMatchObject({
      status: 0,
      sequence: 2,
      digest: createHash('sha256').update(data).digest(),
    });
    const second = side.rig.filter.write(0, data, false);
    const third = side.rig.filter.write(0, data, false);
    side.hash(2, 0, 4096);
    await side.rig.turns();
    await device.waiting[0]!.release();
    await second;
    const fourth = side.rig.filter.write(0, data, false);
    await side.rig.turns();
    await device.waiting[0]!.release();
    await third;
    expect(await side.digests()).toMatchObject([{ requestId: 1 }, { requestId: 2, status: 1 }]);
    await device.releaseAll();
    await fourth;
  });

  it('is busy while changes are not mirrored', async () => {
    side = new HubSide(new MemoryDevice({ sizeBytes: SIZE }), { queueBytes: 8 * KiB });
    await side.rig.turns();
    side.rig.outlet.taking = false;
    void side.rig.filter.write(0, pattern(4096, 1), false);
    void side.rig.filter.write(0, pattern(4096, 2), false);
    expect(side.rig.volume.mode).toBe('degraded');
    side.hash(1, MiB, 512);
    await side.rig.turns(3);
    side.rig.outlet.taking = true;
    side.rig.outlet.take();
    expect(await side.digests()).toMatchObject([{ status: 1 }]);
  });

  it('fails for what is no range of at most 256 KiB, and for what can not be read', async () => {
    const faulty = new FaultDevice(new MemoryDevice({ sizeBytes: SIZE }));
    side = new HubSide(faulty);
    side.hash(1, 0, 256 * KiB + 512);
    side.hash(2, SIZE, 512);
    side.hash(3, 0, 0);
    side.hash(4, 0, -512);
    side.hash(5, 0, 256 * KiB);
    await side.rig.turns();
    faulty.fail();
    side.hash(6, 0, 512);
    expect((await side.digests()).map(({ requestId, status }) => [requestId, status])).toEqual([
      [1, -1],
      [2, -1],
      [3, -1],
      [4, -1],
      [5, 0],
      [6, -1],
    ]);
    expect(
      side.hashes.request({
        kind: 'hashRequest',
        requestId: 1,
        volumeId: 8n,
        offsetSectors: 0n,
        sizeSectors: 1,
      }),
    ).toBe(false);
  });
});
