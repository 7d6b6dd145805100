import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { captureLog } from '../../support/capture-log.ts';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import { PatternDevice, RecorderDevice } from '../../support/test-devices.ts';

const SIZE = 65_536;
let spy: RecorderDevice;
beforeEach(async () => {
  spy = new RecorderDevice(new PatternDevice(SIZE));
});

const CALLS = {
  read: (disk) => disk.read(0, Buffer.alloc(512)),
  write: (disk) => disk.write(0, Buffer.alloc(512), false),
  flush: (disk) => disk.flush(),
  trim: (disk) => disk.trim(0, 512, false),
  zero: (disk) => disk.writeZeroes(0, 512, false, true),
  cache: (disk) => disk.cache(0, 512),
  extents: (disk) => disk.extents(0, 512),
} satisfies Record<string, (disk: BlockDevice) => MaybePromise<unknown>>;

type Name = keyof typeof CALLS;
const NAMES = Object.keys(CALLS) as Name[];

/** The code that a call fails with, or 'ok'. */
function outcome(disk: BlockDevice, name: Name): string {
  try {
    void CALLS[name](disk);
    return 'ok';
  } catch (error) {
    expect(error).toBeInstanceOf(BlockError);
    return (error as BlockError).code;
  }
}

async function outcomes(spec: string): Promise<Record<string, string>> {
  const disk = await filtered(spy, spec);
  return Object.fromEntries(NAMES.map((name) => [name, outcome(disk, name)]));
}

/** How many of `count` calls fail. */
function failures(disk: BlockDevice, name: Name, count: number): number {
  return Array.from({ length: count }, () => outcome(disk, name)).filter((code) => code !== 'ok').length;
}

it('fails every call with EIO, when told nothing else, and none of them reaches the disk', async () => {
  expect(await outcomes('error')).toEqual(Object.fromEntries(NAMES.map((name) => [name, 'EIO'])));
  expect(spy.calls).toEqual([]);
  const disk = await filtered(spy, 'error');
  expect(() => disk.write(512, Buffer.alloc(16), false)).toThrow('injected fault: write of 16 bytes at 512');
  expect(() => disk.flush()).toThrow(/^injected fault: flush$/);
});

for (const code of ['EIO', 'ENOSPC', 'EPERM', 'ENOMEM', 'EINVAL', 'EOVERFLOW', 'ENOTSUP', 'ESHUTDOWN']) {
  it(`error=${code} is what calls fail with`, async () => {
    expect((await outcomes(`error,error=${code}`)).read).toBe(code);
  });
}

describe('which operations fail', () => {
  const allOk = Object.fromEntries(NAMES.map((name) => [name, 'ok']));

  it('are those of on=', async () => {
    expect(await outcomes('error,on=write+zero')).toEqual({ ...allOk, write: 'EIO', zero: 'EIO' });
    expect(await outcomes('error,on=flush,error=ENOSPC')).toEqual({ ...allOk, flush: 'ENOSPC' });
  });

  for (const name of NAMES) {
    it(`is ${name} alone with ${name}-rate, or ${name}-error of its own`, async () => {
      expect(await outcomes(`error,${name}-rate=1`)).toEqual({ ...allOk, [name]: 'EIO' });
      expect(await outcomes(`error,${name}-rate=1,${name}-error=EPERM`)).toEqual({
        ...allOk,
        [name]: 'EPERM',
      });
      expect(await outcomes(`error,${name}-error=ENOMEM`)).toMatchObject({
        read: name === 'read' ? 'ENOMEM' : 'EIO',
        [name]: 'ENOMEM',
      });
    });
  }

  it('follow rate except where they have their own, listed in on= or not', async () => {
    expect(await outcomes('error,rate=1,read-rate=0')).toEqual({
      ...Object.fromEntries(NAMES.map((name) => [name, 'EIO'])),
      read: 'ok',
    });
    expect(await outcomes('error,on=read,write-rate=1,rate=1')).toEqual({
      ...allOk,
      read: 'EIO',
      write: 'EIO',
    });
  });

  it('are none with rate=0', async () => {
    expect(await outcomes('error,rate=0')).toEqual(allOk);
  });
});

describe('by chance', () => {
  it('fails about the share of calls that rate says', async () => {
    for (const [rate, low, high] of [
      [0.01, 5, 50],
      [0.5, 900, 1100],
      [0.9, 1750, 1850],
    ] as const) {
      const count = failures(await filtered(spy, `error,rate=${rate},seed=1`), 'read', 2000);
      expect(count).toBeGreaterThanOrEqual(low);
      expect(count).toBeLessThanOrEqual(high);
    }
  });

  it('fails the same calls for the same seed', async () => {
    const run = async (seed: number): Promise<string[]> => {
      const disk = await filtered(spy, `error,rate=0.3,seed=${seed}`);
      return Array.from({ length: 100 }, (_, index) => outcome(disk, NAMES[index % NAMES.length]!));
    };
    expect(await run(5)).toEqual(await run(5));
    expect(await run(5)).not.toEqual(await run(6));
  });

  it('tells the seed it chose, so that a run can be repeated', async () => {
    const log = captureLog();
    const { context } = await filterChain(spy, ['error,rate=0.5'], log.logger);
    const { seed } = context.status().error as { seed: number };
    expect(Number.isInteger(seed)).toBe(true);
    expect(log.lines()[0]).toMatchObject({
      filter: 'error',
      seed,
      msg: expect.stringContaining(`seed=${seed}`),
    });
  });
});

it('stops after max faults, and tells how many there were', async () => {
  const { chain, context } = await filterChain(spy, ['error,max=3']);
  expect(failures(chain, 'read', 2)).toBe(2);
  expect(context.status()).toMatchObject({ error: { faults: 2 } });
  expect(failures(chain, 'flush', 10)).toBe(1);
  expect(context.status()).toMatchObject({ error: { faults: 3 } });
  expect(failures(await filtered(spy, 'error,max=0'), 'read', 5)).toBe(0);
});

describe('while a file exists', () => {
  let dir: TempDir;
  beforeEach(() => {
    dir = tempDir();
  });
  afterEach(() => {
    dir.remove();
  });

  it('is looked at for each call', async () => {
    const file = dir.file('full');
    const disk = await filtered(spy, `error,file=${file},error=ENOSPC`);
    expect(outcome(disk, 'write')).toBe('ok');
    fs.writeFileSync(file, '');
    expect(outcome(disk, 'write')).toBe('ENOSPC');
    fs.rmSync(file);
    expect(outcome(disk, 'write')).toBe('ok');
  });

  it('goes together with a rate and a limit', async () => {
    const file = dir.file('full');
    const disk = await filtered(spy, `error,file=${file},rate=0.5,max=20,seed=3`);
    expect(failures(disk, 'read', 200)).toBe(0);
    fs.writeFileSync(file, '');
    expect(failures(disk, 'read', 200)).toBe(20);
  });
});

it('refuses what makes no sense', async () => {
  for (const [spec, message] of [
    ['error,rate=1.5', 'allowed is 0 to 1'],
    ['error,read-rate=-1', 'allowed is 0 to 1'],
    ['error,error=eio', '"eio" is not allowed; use one of EIO, ENOSPC'],
    ['error,on=reed', '"reed" is not allowed; use one of read, write'],
    ['error,raed-rate=1', 'did you mean read-rate?'],
    ['error,seed=4294967296', 'out of range'],
    ['error,file=', 'is empty'],
  ] as const) {
    await expect(filtered(spy, spec)).rejects.toThrow(message);
  }
});
