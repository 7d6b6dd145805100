// The conformance suite of BlockDevice: what every device, and every filter over one, must do. A test file calls
// blockDeviceSuite once per kind of device. Random sequences print their seed; REPAGENT_SEED repeats one.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../src/base/errors.ts';
import { GiB, KiB, MAX_REQUEST_BYTES, MiB } from '../../src/base/limits.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice, Extent } from '../../src/blockdev/block-device.ts';
import { DiskModel, pattern } from './disk-model.ts';
import { type Operation, operationBatches, runBatch } from './random-operations.ts';

/** One device under test. `cleanup` removes what is behind it; the suite closes the device before. */
export interface DeviceUnderTest {
  readonly device: BlockDevice;
  /** Closes `device` when it is still open, and opens the same storage anew. Without it durability isn't tested. */
  reopen?(): Promise<BlockDevice>;
  cleanup(): Promise<void>;
}

/** Makes a fresh, all-zero, writable disk of `sizeBytes`. */
export type MakeDevice = (request: { readonly sizeBytes: number }) => Promise<DeviceUnderTest>;

export interface SuiteFeatures {
  /** Sparse disks over 4 GiB can be made. Default true. */
  readonly large?: boolean;
  /** Overlapping changes that are in flight together end in arrival order. Default true. */
  readonly ordered?: boolean;
  /** A trimmed, aligned MiB is told as a hole. Default false: telling is optional. */
  readonly tellsHoles?: boolean;
  /** Calls after close() fail with a BlockError. Default true. */
  readonly failsAfterClose?: boolean;
  /** It can be made larger. Default false. */
  readonly grows?: boolean;
  /** Random sequences per property. Default 25; a slow device asks for fewer. */
  readonly runs?: number;
}

const SMALL_BYTES = 256 * KiB;
/** For what moves gigabytes on a disk that others use too. */
const LARGE_TIMEOUT_MS = 120_000;
const LARGE_BYTES = 4 * GiB + 64 * MiB;

/** Defines the suite's tests for one kind of device. */
export function blockDeviceSuite(name: string, makeDevice: MakeDevice, features: SuiteFeatures = {}): void {
  describe(`${name} is a block device`, () => {
    const made: DeviceUnderTest[] = [];
    const extra: BlockDevice[] = [];

    async function make(sizeBytes: number): Promise<DeviceUnderTest> {
      const under = await makeDevice({ sizeBytes });
      made.push(under);
      expect(under.device.sizeBytes).toBe(sizeBytes);
      return under;
    }

    async function reopen(under: DeviceUnderTest): Promise<BlockDevice> {
      const device = await under.reopen!();
      extra.push(device);
      return device;
    }

    async function dispose(): Promise<void> {
      for (const device of extra.splice(0)) await device.close();
      for (const under of made.splice(0)) {
        await under.device.close();
        await under.cleanup();
      }
    }

    afterEach(dispose);

    basicTests(make, features);
    boundaryTests(make);
    if (features.large ?? true) largeTests(make);
    durabilityTests(make, reopen, makeDevice);
    randomTests(make, dispose, features);
    if (features.grows) growTests(make, reopen);
    closeTests(make, features);
  });
}

function growTests(make: Make, reopen: (under: DeviceUnderTest) => Promise<BlockDevice>): void {
  describe('resize', () => {
    const DATA = pattern(64 * KiB, 77);

    it('keeps what is there, and what is new reads as zeroes and can be written', async () => {
      const under = await make(SMALL_BYTES);
      const { device } = under;
      await device.write(SMALL_BYTES - DATA.length, DATA, false);
      await device.resize(2 * SMALL_BYTES);
      expect(device.sizeBytes).toBe(2 * SMALL_BYTES);
      const all = Buffer.alloc(2 * SMALL_BYTES, 0xff);
      await device.read(0, all);
      expect(all.subarray(SMALL_BYTES - DATA.length, SMALL_BYTES).equals(DATA)).toBe(true);
      expect(all.subarray(SMALL_BYTES).every((byte) => byte === 0)).toBe(true);
      await device.write(2 * SMALL_BYTES - DATA.length, DATA, false);
      await device.read(0, all);
      expect(all.subarray(-DATA.length).equals(DATA)).toBe(true);
      if (!under.reopen) return;
      const again = await reopen(under);
      expect(again.sizeBytes).toBe(2 * SMALL_BYTES);
    });

    it('goes on while requests are in flight', async () => {
      const { device } = await make(SMALL_BYTES);
      const writes = [0, 1, 2, 3].map((i) => device.write(i * DATA.length, DATA, false));
      await device.resize(SMALL_BYTES + 64 * KiB);
      await device.write(SMALL_BYTES, DATA, false);
      await Promise.all(writes);
      const all = Buffer.alloc(SMALL_BYTES + 64 * KiB);
      await device.read(0, all);
      for (let at = 0; at < all.length; at += DATA.length) {
        expect(all.subarray(at, at + DATA.length).equals(DATA)).toBe(true);
      }
    });
  });
}

type Make = (sizeBytes: number) => Promise<DeviceUnderTest>;

function basicTests(make: Make, features: SuiteFeatures): void {
  let device: BlockDevice;
  beforeEach(async () => {
    device = (await make(4 * MiB)).device;
  });

  it('states limits that callers can rely on', () => {
    const { minBlockBytes, preferredBlockBytes, maxRequestBytes, readOnly } = device.limits;
    expect(readOnly).toBe(false);
    expect(Math.log2(minBlockBytes) % 1).toBe(0);
    expect(Math.log2(preferredBlockBytes) % 1).toBe(0);
    expect(preferredBlockBytes).toBeGreaterThanOrEqual(minBlockBytes);
    expect(maxRequestBytes).toBeGreaterThanOrEqual(1 * MiB);
    expect(device.sizeBytes % minBlockBytes).toBe(0);
  });

  it('reads zeroes from a fresh disk, over whatever was in the buffer', async () => {
    expect((await readBack(device, 0, 1 * MiB)).equals(Buffer.alloc(1 * MiB))).toBe(true);
  });

  it('reads back what was written, and nothing around it changes', async () => {
    const data = pattern(8 * KiB, 1);
    await device.write(64 * KiB, data, false);
    const around = await readBack(device, 56 * KiB, 24 * KiB);
    const expected = Buffer.concat([Buffer.alloc(8 * KiB), data, Buffer.alloc(8 * KiB)]);
    expect(around.equals(expected)).toBe(true);
  });

  it('copies lent bytes before it answers', async () => {
    const data = pattern(64 * KiB, 2);
    const expected = Buffer.from(data);
    await device.write(4 * KiB, data, true);
    data.fill(0xdd);
    expect((await readBack(device, 4 * KiB, 64 * KiB)).equals(expected)).toBe(true);
  });

  for (const fua of [false, true]) {
    it(`reads zeroes after trim and after writeZeroes (fua ${fua})`, async () => {
      for (const wipe of wipes(device, fua)) {
        await device.write(0, pattern(1 * MiB, 3), false);
        const model = Buffer.from(pattern(1 * MiB, 3));
        for (const [offset, length] of [
          [4 * KiB, 4 * KiB],
          [64 * KiB, 256 * KiB],
          [99 * device.limits.minBlockBytes, 7 * device.limits.minBlockBytes],
        ] as const) {
          await wipe(offset, length);
          model.fill(0, offset, offset + length);
        }
        expect((await readBack(device, 0, 1 * MiB)).equals(model)).toBe(true);
      }
    });
  }

  it('writes again over what was trimmed', async () => {
    await device.write(0, pattern(128 * KiB, 4), false);
    await device.trim(0, 128 * KiB, false);
    await device.write(32 * KiB, pattern(4 * KiB, 5), false);
    expect((await readBack(device, 32 * KiB, 4 * KiB)).equals(pattern(4 * KiB, 5))).toBe(true);
    expect((await readBack(device, 36 * KiB, 92 * KiB)).equals(Buffer.alloc(92 * KiB))).toBe(true);
  });

  it('accepts cache anywhere, and changes nothing by it', async () => {
    await device.write(0, pattern(4 * KiB, 6), false);
    await device.cache(0, device.sizeBytes);
    await device.cache(device.sizeBytes - 4 * KiB, 4 * KiB);
    expect((await readBack(device, 0, 4 * KiB)).equals(pattern(4 * KiB, 6))).toBe(true);
  });

  it('tells extents that cover the range exactly and never call data zero', async () => {
    await device.write(1 * MiB, pattern(64 * KiB, 7), false);
    await device.write(2 * MiB + 512, pattern(512, 8), false);
    await device.flush();
    const ranges = [
      [0, device.sizeBytes],
      [1 * MiB + 4 * KiB, 4 * KiB],
      [2 * MiB, 2 * KiB],
      [device.sizeBytes - 4 * KiB, 4 * KiB],
    ] as const;
    for (const [offset, length] of ranges) await checkExtents(device, offset, length);
  });

  if (features.tellsHoles) {
    it('tells a trimmed range as a hole and a written one as data', async () => {
      await device.write(0, pattern(4 * MiB, 9), false);
      await device.trim(1 * MiB, 1 * MiB, false);
      await device.flush();
      expect(await knownExtents(device, 4 * MiB)).toEqual([
        { offset: 0, length: 1 * MiB, hole: false, zero: false },
        { offset: 1 * MiB, length: 1 * MiB, hole: true, zero: true },
        { offset: 2 * MiB, length: 2 * MiB, hole: false, zero: false },
      ]);
    });
  }

  it('answers many requests that are in flight together', async () => {
    const pending: Array<Promise<void>> = [];
    for (let i = 0; i < 64; i += 1)
      pending.push(answer(device.write(i * 16 * KiB, pattern(16 * KiB, i), i % 8 === 0)));
    pending.push(answer(device.flush()));
    await Promise.all(pending);
    const targets = Array.from({ length: 64 }, () => Buffer.alloc(16 * KiB, 0xee));
    await Promise.all(targets.map((target, i) => answer(device.read(i * 16 * KiB, target))));
    targets.forEach((target, i) => {
      expect(target.equals(pattern(16 * KiB, i)), `block ${i}`).toBe(true);
    });
  });
}

function boundaryTests(make: Make): void {
  it('reaches the first and the last byte, sector and block', async () => {
    const { device } = await make(1 * MiB);
    const unit = device.limits.minBlockBytes;
    const model = new DiskModel(1 * MiB);
    for (const length of new Set([unit, Math.max(unit, 512), 4 * KiB])) {
      for (const offset of [0, 1 * MiB - length]) {
        const data = pattern(length, offset + length);
        await device.write(offset, data, false);
        model.write(offset, data);
        expect((await readBack(device, offset, length)).equals(data)).toBe(true);
        await expectSame(device, model);
      }
    }
    for (const wipe of wipes(device, false)) {
      await device.write(0, pattern(1 * MiB, 11), false);
      model.write(0, pattern(1 * MiB, 11));
      for (const offset of [0, 1 * MiB - unit]) {
        await wipe(offset, unit);
        model.zero(offset, unit);
      }
      await expectSame(device, model);
    }
  });

  it('takes the whole disk in one request', async () => {
    const { device } = await make(1 * MiB);
    const data = pattern(1 * MiB, 12);
    for (const wipe of wipes(device, false)) {
      await device.write(0, data, false);
      expect((await readBack(device, 0, 1 * MiB)).equals(data)).toBe(true);
      await wipe(0, 1 * MiB);
      expect((await readBack(device, 0, 1 * MiB)).equals(Buffer.alloc(1 * MiB))).toBe(true);
    }
  });

  it('takes the largest request that it allows', async () => {
    const { device } = await make(MAX_REQUEST_BYTES + 1 * MiB);
    const length = Math.min(device.limits.maxRequestBytes, MAX_REQUEST_BYTES);
    const data = pattern(length, 13);
    await device.write(512 * KiB, data, true);
    expect((await readBack(device, 512 * KiB, length)).equals(data)).toBe(true);
  });

  it('works on a disk that is an odd number of sectors', async () => {
    // A device of larger blocks has no such disks.
    if ((await make(1 * MiB)).device.limits.minBlockBytes > 512) return;
    const { device } = await make(2049 * 512);
    const last = 2048 * 512;
    await device.write(last, pattern(512, 14), false);
    expect((await readBack(device, last, 512)).equals(pattern(512, 14))).toBe(true);
    await device.trim(0, device.sizeBytes, false);
    expect((await readBack(device, last, 512)).equals(Buffer.alloc(512))).toBe(true);
    await checkExtents(device, 0, device.sizeBytes);
  });
}

function largeTests(make: Make): void {
  it('keeps offsets around 2^31 and 2^32 apart', async () => {
    const { device } = await make(LARGE_BYTES);
    const points = [0, 2 * GiB, 4 * GiB, LARGE_BYTES - 4 * KiB];
    for (const [i, point] of points.entries()) await device.write(point, pattern(4 * KiB, 20 + i), false);
    await device.write(2 * GiB - 8 * KiB, pattern(8 * KiB, 30), false);
    await device.write(4 * GiB - 8 * KiB, pattern(8 * KiB, 31), false);
    for (const [i, point] of points.entries()) {
      expect((await readBack(device, point, 4 * KiB)).equals(pattern(4 * KiB, 20 + i)), `at ${point}`).toBe(
        true,
      );
    }
    const across = Buffer.concat([pattern(8 * KiB, 31), pattern(4 * KiB, 22)]);
    expect((await readBack(device, 4 * GiB - 8 * KiB, 12 * KiB)).equals(across)).toBe(true);
    await checkExtents(device, 4 * GiB - 1 * MiB, 2 * MiB);
    await checkExtents(device, 0, LARGE_BYTES, false);
  });

  for (const kind of ['trim', 'writeZeroes'] as const) {
    it(
      `takes a ${kind} of 4 GiB - 512 and touches no byte beside it`,
      async () => {
        const { device } = await make(LARGE_BYTES);
        const unit = Math.max(512, device.limits.minBlockBytes);
        const [start, length] = [unit, 4 * GiB - unit];
        const inside = [start, 1 * GiB, 4 * GiB - unit];
        const outside = [0, 4 * GiB, LARGE_BYTES - unit];
        for (const at of [...inside, ...outside]) await device.write(at, pattern(unit, at), false);
        await (kind === 'trim'
          ? device.trim(start, length, false)
          : device.writeZeroes(start, length, false, true));
        for (const at of inside) {
          expect((await readBack(device, at, unit)).equals(Buffer.alloc(unit)), `at ${at}`).toBe(true);
        }
        for (const at of outside) {
          expect((await readBack(device, at, unit)).equals(pattern(unit, at)), `at ${at}`).toBe(true);
        }
        // Where holes can't be punched, the whole range is looked at.
      },
      LARGE_TIMEOUT_MS,
    );
  }
}

/** The extents from the start, asked for as a client does: what a busy device has not looked at is asked for again. */
async function knownExtents(device: BlockDevice, length: number): Promise<Extent[]> {
  const known: Extent[] = [];
  for (let at = 0; at < length; ) {
    const told = await device.extents(at, length - at);
    const sure = told.at(-1)?.unknown ? told.slice(0, -1) : told;
    for (const extent of sure) {
      const last = known.at(-1);
      if (last && last.hole === extent.hole && last.zero === extent.zero) {
        known[known.length - 1] = { ...last, length: last.length + extent.length };
      } else {
        known.push(extent);
      }
      at = extent.offset + extent.length;
    }
  }
  return known;
}

function durabilityTests(
  make: Make,
  reopen: (under: DeviceUnderTest) => Promise<BlockDevice>,
  makeDevice: MakeDevice,
): void {
  it('keeps everything across reopening, when it can be reopened', async () => {
    const under = await make(SMALL_BYTES);
    if (!under.reopen) return;
    const model = new DiskModel(SMALL_BYTES);
    const { device } = under;
    const pending: Array<Promise<void>> = [];
    for (let i = 0; i < 32; i += 1) {
      const data = pattern(8 * KiB, 40 + i);
      model.write(i * 8 * KiB, data);
      pending.push(answer(device.write(i * 8 * KiB, data, false)));
    }
    await Promise.all(pending);
    await device.trim(16 * KiB, 16 * KiB, true);
    model.zero(16 * KiB, 16 * KiB);
    await device.writeZeroes(64 * KiB, 4 * KiB, false, false);
    model.zero(64 * KiB, 4 * KiB);
    await device.write(72 * KiB, pattern(4 * KiB, 99), true);
    model.write(72 * KiB, pattern(4 * KiB, 99));
    await device.flush();
    const again = await reopen(under);
    expect(again.sizeBytes).toBe(SMALL_BYTES);
    await expectSame(again, model);
  });

  it('finishes what is in flight when it is closed', async () => {
    const under = await make(SMALL_BYTES);
    const writes = Array.from({ length: 16 }, (_, i) =>
      settled(() => under.device.write(i * 16 * KiB, pattern(16 * KiB, 60 + i), i % 4 === 0)),
    );
    await under.device.close();
    const outcomes = await Promise.all(writes);
    expect(outcomes).toEqual(outcomes.map(() => 'ok'));
    if (!under.reopen) return;
    const again = await reopen(under);
    for (let i = 0; i < 16; i += 1) {
      expect((await readBack(again, i * 16 * KiB, 16 * KiB)).equals(pattern(16 * KiB, 60 + i))).toBe(true);
    }
  });

  it('makes disks that share nothing', async () => {
    const first = (await make(SMALL_BYTES)).device;
    const second = await makeDevice({ sizeBytes: SMALL_BYTES });
    try {
      await first.write(0, pattern(4 * KiB, 80), false);
      expect((await readBack(second.device, 0, 4 * KiB)).equals(Buffer.alloc(4 * KiB))).toBe(true);
    } finally {
      await second.device.close();
      await second.cleanup();
    }
  });
}

function randomTests(make: Make, dispose: () => Promise<void>, features: SuiteFeatures): void {
  const seed = Number(process.env.REPAGENT_SEED ?? Number.NaN);
  const parameters = {
    numRuns: features.runs ?? 25,
    ...(Number.isInteger(seed) ? { seed } : {}),
    interruptAfterTimeLimit: 20_000,
    endOnFailure: false,
  };

  async function check(batches: Operation[][]): Promise<void> {
    const { device } = await make(SMALL_BYTES);
    const model = new DiskModel(SMALL_BYTES);
    try {
      for (const batch of batches) {
        await runBatch(device, model, batch);
        await expectSame(device, model);
      }
      await checkExtents(device, 0, SMALL_BYTES);
    } finally {
      await dispose();
    }
  }

  it('does what a plain array does, for random sequences', { timeout: 60_000 }, async () => {
    await fc.assert(fc.asyncProperty(operationBatches(SMALL_BYTES, 1), check), parameters);
  });

  if (features.ordered ?? true) {
    it('ends overlapping changes in arrival order, for random bursts', { timeout: 60_000 }, async () => {
      await fc.assert(fc.asyncProperty(operationBatches(SMALL_BYTES, 12), check), parameters);
    });
  }
}

function closeTests(make: Make, features: SuiteFeatures): void {
  it('closes once, however often it is told to', async () => {
    const { device } = await make(SMALL_BYTES);
    await device.write(0, pattern(4 * KiB, 90), false);
    await Promise.all([device.close(), device.close()]);
    await device.close();
  });

  if (features.failsAfterClose ?? true) {
    it('fails calls after close with a BlockError', async () => {
      const { device } = await make(SMALL_BYTES);
      await device.close();
      const calls: Array<() => MaybePromise<unknown>> = [
        () => device.read(0, Buffer.alloc(512)),
        () => device.write(0, Buffer.alloc(512), false),
        () => device.flush(),
        () => device.trim(0, 4 * KiB, false),
        () => device.writeZeroes(0, 4 * KiB, false, true),
        () => device.extents(0, 4 * KiB),
      ];
      for (const call of calls) expect(await settled(call)).toBeInstanceOf(BlockError);
    });
  }
}

type Wipe = (offset: number, length: number) => MaybePromise<void>;

/** Every way to make a range zero. */
function wipes(device: BlockDevice, fua: boolean): Wipe[] {
  return [
    (offset, length) => device.trim(offset, length, fua),
    (offset, length) => device.writeZeroes(offset, length, fua, true),
    (offset, length) => device.writeZeroes(offset, length, fua, false),
  ];
}

/** An answer as a promise, whether it is there or not. */
async function answer(value: MaybePromise<void>): Promise<void> {
  await value;
}

/** Reads into a buffer full of junk, so that bytes that the device leaves out show. */
export async function readBack(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.alloc(length, 0xa5);
  await device.read(offset, target);
  return target;
}

/** 'ok', or the error that `call` threw or rejected with. */
export async function settled(call: () => MaybePromise<unknown>): Promise<unknown> {
  try {
    await call();
    return 'ok';
  } catch (error) {
    return error;
  }
}

async function expectSame(device: BlockDevice, model: DiskModel): Promise<void> {
  const actual = await readBack(device, 0, model.sizeBytes);
  const at = model.firstDifference(actual);
  if (at === -1) return;
  expect.fail(`disk differs from the model at ${at}: has ${actual[at]}, should have ${model.bytes[at]}`);
}

/** @param readZeroes also read what is told to be zero; off for a range of GiB */
async function checkExtents(
  device: BlockDevice,
  offset: number,
  length: number,
  readZeroes = true,
): Promise<void> {
  const extents = await device.extents(offset, length);
  let at = offset;
  for (const extent of extents) {
    expect(extent.offset).toBe(at);
    expect(extent.length).toBeGreaterThan(0);
    if (extent.hole) expect(extent.zero).toBe(true);
    if (extent.zero && readZeroes) {
      const bytes = await readBack(device, extent.offset, extent.length);
      expect(bytes.equals(Buffer.alloc(extent.length)), `extent at ${at} is told to be zero`).toBe(true);
    }
    at += extent.length;
  }
  expect(at).toBe(offset + length);
}
