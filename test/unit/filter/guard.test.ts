import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../../src/base/assert.ts';
import { BlockError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from '../../../src/blockdev/block-device.ts';
import { Guard } from '../../../src/filter/guard.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { captureLog } from '../../support/capture-log.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  type RecordedCall,
  RecorderDevice,
  SparseDevice,
  settled,
} from '../../support/test-devices.ts';

const SIZE = 65_536;

function guardOver(below: BlockDevice, logger = silentLogger, inner?: Guard): Guard {
  return new Guard(below, { name: 'probe', logger, ...(inner ? { inner } : {}) });
}

function setUp(limits: Partial<DeviceLimits> = {}, sizeBytes = SIZE) {
  const disk = new SparseDevice(sizeBytes, limits);
  const spy = new RecorderDevice(disk);
  return { disk, spy, guard: guardOver(spy) };
}

type Op = RecordedCall['op'];
const RANGED = ['read', 'write', 'trim', 'writeZeroes', 'cache', 'extents'] as const;
const CHANGES = ['write', 'trim', 'writeZeroes'] as const;

/** Calls `op`; a read or write with a buffer of that length. Lengths no buffer can have are only for the others. */
function call(device: BlockDevice, op: Op, offset: number, length: number): MaybePromise<unknown> {
  switch (op) {
    case 'read':
      return device.read(offset, Buffer.alloc(length));
    case 'write':
      return device.write(offset, Buffer.alloc(length), false);
    case 'flush':
      return device.flush();
    case 'trim':
      return device.trim(offset, length, false);
    case 'writeZeroes':
      return device.writeZeroes(offset, length, false, false);
    case 'cache':
      return device.cache(offset, length);
    case 'extents':
      return device.extents(offset, length);
  }
}

function errorOf(run: () => unknown): BlockError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(BlockError);
    return error as BlockError;
  }
  expect.unreachable('the call should have thrown');
}

describe('range', () => {
  for (const op of RANGED) {
    const code = op === 'write' || op === 'writeZeroes' ? 'ENOSPC' : 'EINVAL';

    it(`${op} up to the last byte passes`, () => {
      const { guard, spy } = setUp();
      call(guard, op, 0, SIZE);
      call(guard, op, SIZE - 1, 1);
      expect(spy.lines()).toEqual([`${op} 0+${SIZE}`, `${op} ${SIZE - 1}+1`]);
    });

    for (const [offset, length] of [
      [SIZE, 1],
      [SIZE - 1, 2],
      [0, SIZE + 1],
      [2 ** 40, 512],
      [Number.MAX_SAFE_INTEGER, 1],
    ] as const) {
      it(`${op} of ${length} at ${offset} is ${code}`, () => {
        const { guard, spy } = setUp();
        const error = errorOf(() => call(guard, op, offset, length));
        expect(error.code).toBe(code);
        expect(error.message).toContain(`${op} of ${length} bytes at ${offset}`);
        expect(error.message).toContain(`${SIZE} bytes`);
        expect(spy.calls).toEqual([]);
      });
    }

    for (const offset of [-1, -512, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      it(`${op} at ${offset} is EINVAL: no such place exists`, () => {
        const { guard, spy } = setUp();
        expect(errorOf(() => call(guard, op, offset, 1)).code).toBe('EINVAL');
        expect(spy.calls).toEqual([]);
      });
    }
  }

  for (const op of ['trim', 'writeZeroes', 'cache', 'extents'] as const) {
    for (const length of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      it(`${op} of ${length} bytes is EINVAL`, () => {
        const { guard, spy } = setUp();
        expect(errorOf(() => call(guard, op, 512, length)).code).toBe('EINVAL');
        expect(spy.calls).toEqual([]);
      });
    }
  }

  it('holds around 2^32 and at the largest disk', () => {
    const { guard, spy } = setUp({}, 2 ** 52);
    call(guard, 'trim', 512, 2 ** 32 - 512);
    call(guard, 'writeZeroes', 2 ** 32 - 512, 1024);
    call(guard, 'read', 2 ** 52 - 1, 1);
    expect(spy.calls).toHaveLength(3);
    expect(errorOf(() => call(guard, 'trim', 2 ** 52 - 511, 512)).code).toBe('EINVAL');
    expect(errorOf(() => call(guard, 'writeZeroes', 512, 2 ** 52)).code).toBe('ENOSPC');
  });

  it('is judged by the size that the device has now', () => {
    const { guard, spy } = setUp();
    Object.defineProperty(spy, 'sizeBytes', { value: 4096 });
    expect(guard.sizeBytes).toBe(4096);
    expect(errorOf(() => call(guard, 'read', 4096, 1)).code).toBe('EINVAL');
  });
});

describe('alignment', () => {
  for (const op of RANGED) {
    it(`${op} off the grid is EINVAL and says what is allowed`, () => {
      const { guard, spy } = setUp({ minBlockBytes: 512 });
      for (const [offset, length] of [
        [1, 512],
        [0, 511],
        [256, 256],
        [511, 1],
      ] as const) {
        const error = errorOf(() => call(guard, op, offset, length));
        expect(error.code).toBe('EINVAL');
        expect(error.message).toContain('multiples of 512 bytes');
      }
      call(guard, op, 512, 1024);
      expect(spy.lines()).toEqual([`${op} 512+1024`]);
    });
  }

  it('is exact above 2^32 and 2^52', () => {
    const { guard } = setUp({ minBlockBytes: 4096 }, 2 ** 52 + 2 ** 20);
    for (const base of [2 ** 32, 2 ** 52]) {
      expect(guard.read(base, Buffer.alloc(4096))).toBeUndefined();
      for (const off of [1, 512, 4095]) {
        expect(errorOf(() => call(guard, 'read', base + off, 4096)).code).toBe('EINVAL');
      }
    }
  });

  it('past the end is told as such, aligned or not', () => {
    const { guard } = setUp({ minBlockBytes: 512 });
    expect(errorOf(() => call(guard, 'write', SIZE - 1, 2)).code).toBe('ENOSPC');
  });
});

describe('request size', () => {
  it('limits what carries data', () => {
    const { guard, spy } = setUp({ maxRequestBytes: 4096 });
    for (const op of ['read', 'write'] as const) {
      call(guard, op, 0, 4096);
      const error = errorOf(() => call(guard, op, 0, 4097));
      expect(error.code).toBe('EINVAL');
      expect(error.message).toContain('at most 4096 bytes');
    }
    expect(spy.calls).toHaveLength(2);
  });

  it('does not limit what carries none', () => {
    const { guard, spy } = setUp({ maxRequestBytes: 4096 }, 2 ** 40);
    for (const op of ['trim', 'cache', 'extents'] as const)
      call(guard, op, 0, op === 'trim' ? SIZE : 2 ** 20);
    call(guard, 'writeZeroes', 0, SIZE);
    expect(spy.calls).toHaveLength(4);
  });
});

describe('read-only', () => {
  for (const op of CHANGES) {
    it(`${op} is EPERM, whatever else is wrong with it`, () => {
      const { guard, spy } = setUp({ readOnly: true, minBlockBytes: 512 });
      for (const [offset, length] of [
        [0, 512],
        [0, 0],
        [1, 1],
        [SIZE * 2, 512],
      ] as const) {
        const error = errorOf(() => call(guard, op, offset, length));
        expect(error.code).toBe('EPERM');
        expect(error.message).toContain('read-only');
      }
      expect(spy.calls).toEqual([]);
    });
  }

  it('lets reads and flushes through', () => {
    const { guard, spy } = setUp({ readOnly: true });
    for (const op of ['read', 'flush', 'cache', 'extents'] as const) call(guard, op, 0, 512);
    expect(spy.calls).toHaveLength(4);
  });

  it('can be switched while the disk is in use', () => {
    const { guard, disk } = setUp();
    call(guard, 'write', 0, 1);
    Object.defineProperty(disk, 'limits', { value: { ...disk.limits, readOnly: true } });
    expect(errorOf(() => call(guard, 'write', 0, 1)).code).toBe('EPERM');
  });
});

describe('nothing to do', () => {
  it('calls of length 0 succeed without reaching the device', () => {
    const { guard, spy } = setUp({ minBlockBytes: 512 });
    for (const op of RANGED) {
      for (const offset of [0, 512, SIZE]) {
        expect(call(guard, op, offset, 0)).toEqual(op === 'extents' ? [] : undefined);
      }
    }
    expect(spy.calls).toEqual([]);
  });

  it('a flush is never skipped', async () => {
    const { guard, spy } = setUp();
    await guard.flush();
    expect(spy.lines()).toEqual(['flush']);
  });

  it('of length 0 but outside the disk is still wrong', () => {
    const { guard } = setUp();
    expect(errorOf(() => call(guard, 'read', SIZE + 1, 0)).code).toBe('EINVAL');
    expect(errorOf(() => call(guard, 'write', SIZE + 1, 0)).code).toBe('ENOSPC');
  });
});

describe('passing on', () => {
  it('gives the device the very same buffer and flags', async () => {
    const { guard, spy, disk } = setUp();
    await guard.write(512, Buffer.from('abc'), true);
    await guard.trim(0, 5, true);
    await guard.writeZeroes(5, 5, true, true);
    await guard.writeZeroes(5, 5, false, false);
    expect(spy.take()).toEqual([
      'write 512+3 fua',
      'trim 0+5 fua',
      'writeZeroes 5+5 fua mayTrim',
      'writeZeroes 5+5',
    ]);
    const target = Buffer.alloc(3);
    await guard.read(512, target);
    expect(target.toString()).toBe('abc');
    const seen: Buffer[] = [];
    disk.write = (_offset, data) => void seen.push(data);
    const data = Buffer.from('same');
    await guard.write(0, data, false);
    expect(seen[0]).toBe(data);
  });

  it('shows size and limits of the device', () => {
    const { guard, disk } = setUp({ minBlockBytes: 4096 });
    expect(guard.sizeBytes).toBe(SIZE);
    expect(guard.limits).toBe(disk.limits);
  });

  it('answers at once what the device answers at once', () => {
    const { guard } = setUp();
    for (const op of [...RANGED, 'flush'] as const)
      expect(call(guard, op, 0, 512)).not.toBeInstanceOf(Promise);
  });

  it('answers later what the device answers later, with its value', async () => {
    const held = new HeldDevice(new SparseDevice(SIZE));
    const guard = guardOver(held);
    for (const op of [...RANGED, 'flush'] as const) {
      const answer = call(guard, op, 0, 512);
      expect(await isPending(answer)).toBe(true);
      expect(guard.inFlight).toBe(1);
      await held.waiting[0]?.release();
      expect(await answer).toEqual(op === 'extents' ? [expect.objectContaining({ length: 512 })] : undefined);
      expect(guard.inFlight).toBe(0);
    }
  });
});

describe('extents', () => {
  class Lying extends PassThrough {
    answer: Extent[] = [];
    late = false;
    override extents(): MaybePromise<Extent[]> {
      return this.late ? Promise.resolve(this.answer) : this.answer;
    }
  }
  const piece = (offset: number, length: number): Extent => ({ offset, length, hole: false, zero: false });

  for (const [what, answer] of [
    ['nothing', []],
    ['a gap at the beginning', [piece(1024, 512)]],
    ['a gap in the middle', [piece(512, 256), piece(1024, 512)]],
    ['a gap at the end', [piece(512, 512)]],
    ['too much', [piece(512, 2048)]],
    ['overlap', [piece(512, 512), piece(768, 768)]],
    ['an empty extent', [piece(512, 512), piece(1024, 0), piece(1024, 512)]],
    ['an earlier beginning', [piece(0, 1536)]],
  ] as const) {
    it(`that tell ${what} become EIO, since clients would skip data`, async () => {
      const log = captureLog();
      const device = new Lying(new SparseDevice(SIZE));
      const guard = guardOver(device, log.logger);
      device.answer = [...answer];
      expect(errorOf(() => guard.extents(512, 1024)).code).toBe('EIO');
      device.late = true;
      await expect(guard.extents(512, 1024)).rejects.toMatchObject({ name: 'BlockError', code: 'EIO' });
      expect(log.errors()).toHaveLength(2);
    });
  }

  it('that cover the range pass as they are', async () => {
    const device = new Lying(new SparseDevice(SIZE));
    const guard = guardOver(device);
    device.answer = [piece(512, 1000), piece(1512, 24)];
    expect(guard.extents(512, 1024)).toBe(device.answer);
    device.late = true;
    expect(await guard.extents(512, 1024)).toBe(device.answer);
  });
});

describe('errors of the device', () => {
  function failing(error: unknown, rejects: boolean) {
    const log = captureLog();
    const fault = new FaultDevice(new SparseDevice(SIZE));
    fault.fail({ error, rejects });
    const inner = guardOver(fault, log.logger);
    return { log, inner, outer: guardOver(new PassThrough(inner), log.logger) };
  }

  async function outcome(run: () => MaybePromise<unknown>): Promise<unknown> {
    try {
      await run();
    } catch (error) {
      return error;
    }
    expect.unreachable('the call should have failed');
  }

  for (const rejects of [false, true]) {
    const how = rejects ? 'rejected' : 'thrown';
    for (const op of [...RANGED, 'flush'] as const) {
      it(`${op}: a BlockError ${how} passes as it is, unlogged`, async () => {
        const error = new BlockError('ENOSPC', 'full');
        const { outer, log } = failing(error, rejects);
        expect(await outcome(() => call(outer, op, 0, 512))).toBe(error);
        expect(log.errors()).toEqual([]);
      });

      it(`${op}: a system error ${how} becomes a BlockError, logged once however many guards it passes`, async () => {
        const cause = Object.assign(new Error('disk quota exceeded'), { code: 'EDQUOT' });
        const { outer, log } = failing(cause, rejects);
        const error = await outcome(() => call(outer, op, 0, 512));
        expect(error).toBeInstanceOf(BlockError);
        expect(error).toMatchObject({ code: 'ENOSPC', message: 'disk quota exceeded', cause });
        expect(log.errors()).toEqual([`${op} failed in probe: disk quota exceeded`]);
      });
    }

    it(`anything else ${how} becomes EIO`, async () => {
      for (const thrown of [new TypeError('x is not a function'), 'a string', undefined, null]) {
        const { outer, log } = failing(thrown ?? Object.create(null), rejects);
        expect(await outcome(() => outer.flush())).toMatchObject({ name: 'BlockError', code: 'EIO' });
        expect(log.errors()).toHaveLength(1);
      }
    });

    it(`an AssertionError ${how} passes untouched: it is no answer to a client`, async () => {
      const error = new AssertionError('the program is wrong');
      const { outer } = failing(error, rejects);
      expect(await outcome(() => outer.flush())).toBe(error);
    });
  }

  it('do not count as in flight any longer', async () => {
    const held = new HeldDevice(new SparseDevice(SIZE));
    const guard = guardOver(held);
    const answer = expect(guard.flush()).rejects.toThrow('held flush failed');
    await held.waiting[0]?.fail();
    await answer;
    expect(guard.inFlight).toBe(0);
  });
});

describe('close', () => {
  it('refuses everything from the moment it is called', async () => {
    const { guard, spy } = setUp({ readOnly: true });
    const closing = guard.close();
    for (const op of [...RANGED, 'flush'] as const) {
      expect(errorOf(() => call(guard, op, 0, 0)).code).toBe('ESHUTDOWN');
      expect(errorOf(() => call(guard, op, SIZE * 2, 1)).code).toBe('ESHUTDOWN');
    }
    await closing;
    expect(errorOf(() => guard.flush()).code).toBe('ESHUTDOWN');
    expect(spy.calls).toEqual([]);
  });

  it('closes the device once, however often it is called', async () => {
    const { guard, spy } = setUp();
    const first = guard.close();
    expect(guard.close()).toBe(first);
    await first;
    await guard.close();
    expect(spy.closes).toBe(1);
  });

  it('waits for every call in flight, in whatever order they end', async () => {
    const spy = new RecorderDevice(new SparseDevice(SIZE));
    const held = new HeldDevice(spy);
    const guard = guardOver(held);
    const answers = [
      guard.write(0, Buffer.alloc(1), false),
      guard.read(0, Buffer.alloc(1)),
      guard.flush(),
      guard.extents(0, 512),
    ];
    const closing = guard.close();
    const failed = expect(answers[0]).rejects.toThrow('held write failed');
    for (const index of [2, 0, 1, 0]) {
      expect(await isPending(closing)).toBe(true);
      expect(spy.closes).toBe(0);
      const next = held.waiting[index];
      if (next?.op === 'write') await next.fail();
      else await next?.release();
    }
    await closing;
    await failed;
    expect(spy.closes).toBe(1);
  });

  it('tells the error of the device, and tells it again', async () => {
    const log = captureLog();
    const disk = new SparseDevice(SIZE);
    disk.close = () => Promise.reject(Object.assign(new Error('lost'), { code: 'EIO' }));
    const guard = guardOver(disk, log.logger);
    await expect(guard.close()).rejects.toMatchObject({ name: 'BlockError', code: 'EIO', message: 'lost' });
    await expect(guard.close()).rejects.toThrow('lost');
    expect(log.errors()).toEqual(['close failed in probe: lost']);
  });

  it('survives a device whose close throws instead of rejecting', async () => {
    const disk = new SparseDevice(SIZE);
    disk.close = () => {
      throw new Error('rude');
    };
    await expect(guardOver(disk).close()).rejects.toThrow('rude');
  });

  it('goes on to the guard below when the link does not', async () => {
    const disk = new SparseDevice(SIZE);
    const inner = guardOver(disk);
    class Forgetful extends PassThrough {
      override async close(): Promise<void> {}
    }
    await guardOver(new Forgetful(inner), silentLogger, inner).close();
    expect(disk.closes).toBe(1);
  });

  it('goes on when the link fails, and tells the first error', async () => {
    const log = captureLog();
    const disk = new SparseDevice(SIZE);
    disk.close = () => Promise.reject(new BlockError('EIO', 'second'));
    const inner = guardOver(disk, log.logger);
    class Failing extends PassThrough {
      override close(): Promise<void> {
        return Promise.reject(new BlockError('EIO', 'first'));
      }
    }
    await expect(guardOver(new Failing(inner), log.logger, inner).close()).rejects.toThrow('first');
    expect(log.errors()).toEqual(['closing failed further down too']);
    await settled();
  });
});

describe('resize', () => {
  const guarded = (limits = {}) => guardOver(new SparseDevice(8192, limits));

  it.each([8192, 4096, 0, 8193, 8704.5, -512, Number.NaN, 2 ** 53])('refuses %d bytes', (sizeBytes) => {
    const device = guarded();
    expect(() => device.resize(sizeBytes)).toThrow(/8192 bytes cannot be made one of .*: it only grows/);
    expect(device.sizeBytes).toBe(8192);
  });

  it('keeps to the blocks of the disk', () => {
    const device = guarded({ minBlockBytes: 4096 });
    expect(() => device.resize(8704)).toThrow('whole 4096-byte blocks');
    void device.resize(12_288);
    expect(device.sizeBytes).toBe(12_288);
  });

  it('is a change: not of a read-only disk, nor of one that is closed', async () => {
    expect(() => guarded({ readOnly: true }).resize(16_384)).toThrow('read-only');
    const device = guarded();
    await device.close();
    expect(() => device.resize(16_384)).toThrow('closed');
  });
});
