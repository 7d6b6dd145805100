import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import type { NativeCalls, ZeroMode } from '../../../src/base/native-calls.ts';
import { type FileIo, systemIo } from '../../../src/blockdev/file-io.ts';
import { FileZero } from '../../../src/blockdev/file-zero.ts';
import { SyncBudget } from '../../../src/blockdev/sync-budget.ts';
import { pattern } from '../../support/disk-model.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const SIZE_BYTES = 3 * MiB + 512;

interface Call {
  readonly way: string;
  readonly offset: number;
  readonly length: number;
}

describe('FileZero', () => {
  let dir: TempDir;
  let fd: number;
  let calls: Call[];
  let writes: Call[];

  beforeEach(() => {
    dir = tempDir();
    fd = fs.openSync(dir.file('disk.img'), 'w+');
    fs.writeSync(fd, pattern(SIZE_BYTES, 1), 0, SIZE_BYTES, 0);
    calls = [];
    writes = [];
  });

  afterEach(() => {
    fs.closeSync(fd);
    dir.remove();
  });

  /** Native calls that answer by rule; success zeroes the file with plain writes. */
  function native(rule: (mode: ZeroMode, offset: number, length: number) => string | undefined): NativeCalls {
    const fallocate = (where: string, mode: ZeroMode, offset: number, length: number): string | undefined => {
      calls.push({ way: `${where} ${mode}`, offset, length });
      const code = rule(mode, offset, length);
      if (code === undefined) fs.writeSync(fd, Buffer.alloc(length), 0, length, offset);
      return code;
    };
    return {
      // It can't tell.
      seek: async () => undefined,
      fallocateSync: (_fd: number, mode: ZeroMode, offset: number, length: number) =>
        fallocate('in place', mode, offset, length),
      fallocate: async (_fd: number, mode: ZeroMode, offset: number, length: number) =>
        fallocate('pool', mode, offset, length),
    } as Partial<NativeCalls> as NativeCalls;
  }

  function io(): FileIo {
    const inner = systemIo(undefined);
    return {
      ...inner,
      write: (file, data, offset, done) => {
        writes.push({ way: 'write', offset, length: data.length });
        inner.write(file, data, offset, done);
      },
    };
  }

  /** On a clock that stands still: a busy machine must not look like a slow disk. */
  function zero(fs_: NativeCalls | undefined, budget = new SyncBudget(() => 0)): FileZero {
    return new FileZero({ fd, io: io(), native: fs_, budget });
  }

  function expectZeroed(offset: number, length: number): void {
    const expected = pattern(SIZE_BYTES, 1).fill(0, offset, offset + length);
    expect(fs.readFileSync(dir.file('disk.img')).equals(expected)).toBe(true);
  }

  const ways = () => calls.map((call) => call.way);

  it('zeroes small ranges in place by one call', () => {
    const target = zero(native(() => undefined));
    expect(target.zero(4 * KiB, 64 * KiB, 'punch')).toBeUndefined();
    expect(target.zero(0, 0, 'punch')).toBeUndefined();
    expect(calls).toEqual([{ way: 'in place punch', offset: 4 * KiB, length: 64 * KiB }]);
    expectZeroed(4 * KiB, 64 * KiB);
  });

  it('goes to the thread pool for large ranges, and for a slow device', async () => {
    await zero(native(() => undefined)).zero(0, 2 * MiB, 'zero');
    expect(ways()).toEqual(['pool zero']);
    expectZeroed(0, 2 * MiB);
    const slow = new SyncBudget();
    slow.finish(slow.start() - 1000, 0);
    expect(slow.maySync()).toBe(false);
    await zero(
      native(() => undefined),
      slow,
    ).zero(0, 512, 'punch');
    expect(ways()).toEqual(['pool zero', 'pool punch']);
  });

  it('cuts a huge range into aligned pieces', async () => {
    const sizes: Array<[number, number]> = [];
    const counting = {
      seek: async () => undefined,
      fallocate: async (_fd: number, _mode: ZeroMode, offset: number, length: number) => {
        sizes.push([offset, length]);
        return undefined;
      },
    } as unknown as NativeCalls;
    const length = 4 * 1024 * MiB - 512;
    await new FileZero({ fd, io: io(), native: counting }).zero(512, length, 'punch');
    expect(sizes).toHaveLength(512);
    expect(sizes[0]).toEqual([512, 8 * MiB - 512]);
    let at = 512;
    for (const [offset, size] of sizes) {
      expect(offset).toBe(at);
      expect(size).toBeLessThanOrEqual(8 * MiB);
      at += size;
    }
    expect(at).toBe(512 + length);
  });

  it('keeps the space where giving it back is not supported, and asks no more', async () => {
    const target = zero(native((mode) => (mode === 'punch' ? 'ENOTSUP' : undefined)));
    await target.zero(0, 4 * KiB, 'punch');
    expect(ways()).toEqual(['in place punch', 'pool zero']);
    expect(target.zero(4 * KiB, 4 * KiB, 'punch')).toBeUndefined();
    expect(ways().slice(2)).toEqual(['in place zero']);
    expectZeroed(0, 8 * KiB);
  });

  it('does not give space back to one who wants to keep it', async () => {
    await zero(native((mode) => (mode === 'zero' ? 'ENOTSUP' : undefined))).zero(0, 4 * KiB, 'zero');
    expect(ways()).toEqual(['in place zero']);
    expect(writes).toEqual([{ way: 'write', offset: 0, length: 4 * KiB }]);
    expectZeroed(0, 4 * KiB);
  });

  it('writes zeroes where nothing is supported, and asks no more', async () => {
    const target = zero(native(() => 'ENOTSUP'));
    await target.zero(100, 2 * MiB, 'punch');
    expectZeroed(100, 2 * MiB);
    const asked = calls.length;
    await target.zero(0, 100, 'punch');
    expect(calls).toHaveLength(asked);
    expectZeroed(0, 2 * MiB + 100);
  });

  it('takes EINVAL for the fault of one range and asks again for the next', async () => {
    const target = zero(native((_mode, offset) => (offset % 4096 === 0 ? undefined : 'EINVAL')));
    await target.zero(512, 4 * KiB, 'punch');
    expectZeroed(512, 4 * KiB);
    expect(target.zero(8 * KiB, 4 * KiB, 'punch')).toBeUndefined();
    expect(ways().at(-1)).toBe('in place punch');
  });

  it('makes the range zero when a call is interrupted', async () => {
    let interrupted = 0;
    await zero(
      native(() => {
        interrupted += 1;
        return interrupted <= 1 ? 'EINTR' : undefined;
      }),
    ).zero(0, 64 * KiB, 'punch');
    expectZeroed(0, 64 * KiB);
  });

  it('gives nothing back where there is nothing, and looks only once', async () => {
    const seeks: number[] = [];
    const zero = (found: number | undefined) => {
      const calls = native(() => undefined);
      calls.seek = async (_fd, offset) => {
        seeks.push(offset);
        return found;
      };
      return new FileZero({ fd, io: io(), native: calls });
    };
    const length = 2 * MiB;
    await zero(-1).zero(0, length, 'punch');
    await zero(MiB + length).zero(MiB, length, 'punch');
    expect(calls).toEqual([]);
    await zero(MiB + 512).zero(MiB, length, 'punch');
    expect(calls).toEqual([{ way: 'pool punch', offset: MiB + 512, length: length - 512 }]);
    expect(seeks).toEqual([0, MiB, MiB]);
    // Space that is to be kept is taken where there is none.
    await zero(-1).zero(0, length, 'zero');
    expect([calls.length, seeks.length]).toEqual([2, 3]);
  });

  it('reports failures as what they are', async () => {
    const fails = (code: string) => zero(native(() => code));
    expect(() => fails('ENOSPC').zero(0, 512, 'zero')).toThrow(
      expect.objectContaining({ name: 'BlockError', code: 'ENOSPC' }),
    );
    expect(() => fails('EIO').zero(0, 512, 'punch')).toThrow(BlockError);
    await expect(fails('EPERM').zero(0, 2 * MiB, 'punch')).rejects.toMatchObject({ code: 'EPERM' });
    expect(writes).toEqual([]);
  });

  it('without native calls leaves alone what is zero already, so that sparse files stay sparse', async () => {
    fs.ftruncateSync(fd, 0);
    fs.ftruncateSync(fd, SIZE_BYTES);
    for (const offset of [64 * KiB, 1 * MiB - 4 * KiB, 2 * MiB + 8 * KiB]) {
      fs.writeSync(fd, pattern(8 * KiB, 2), 0, 8 * KiB, offset);
    }
    const before = fs.fstatSync(fd).blocks;
    await zero(undefined).zero(0, SIZE_BYTES, 'punch');
    expect(writes).toEqual([
      { way: 'write', offset: 64 * KiB, length: 8 * KiB },
      { way: 'write', offset: 1 * MiB - 4 * KiB, length: 4 * KiB },
      { way: 'write', offset: 1 * MiB, length: 4 * KiB },
      { way: 'write', offset: 2 * MiB + 8 * KiB, length: 8 * KiB },
    ]);
    expect(fs.readFileSync(dir.file('disk.img')).equals(Buffer.alloc(SIZE_BYTES))).toBe(true);
    expect(fs.fstatSync(fd).blocks).toBe(before);
  });

  it('without native calls writes every byte where the space is to be kept', async () => {
    fs.ftruncateSync(fd, 0);
    fs.ftruncateSync(fd, SIZE_BYTES);
    await zero(undefined).zero(512, 2 * MiB, 'zero');
    expect(fs.fstatSync(fd).blocks * 512).toBeGreaterThanOrEqual(2 * MiB);
  });
});
