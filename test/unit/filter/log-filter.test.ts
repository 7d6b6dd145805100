import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockError, OperationError } from '../../../src/base/errors.ts';
import { captureLog } from '../../support/capture-log.ts';
import { filterChain } from '../../support/filter-chain.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import { FaultDevice, HeldDevice, PatternDevice, patternBytes } from '../../support/test-devices.ts';

const SIZE = 65_536;
let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
});
afterEach(() => {
  dir.remove();
});

/** The lines of a log file, with what differs from run to run replaced. */
function linesOf(file: string): string[] {
  const text = fs.readFileSync(file, 'utf8');
  expect(text.endsWith('\n')).toBe(true);
  return text
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z /, '').replace(/ \d+us$/, ' Nus'));
}

it('tells each call with offset, length, flags, result and duration', async () => {
  const log = captureLog();
  const { chain } = await filterChain(new PatternDevice(SIZE), ['log'], log.logger);
  const target = Buffer.alloc(512);
  await chain.read(1024, target);
  await chain.write(0, Buffer.alloc(512), true);
  await chain.writeZeroes(512, 512, false, true);
  await chain.trim(0, 4096, false);
  await chain.flush();
  await chain.cache(0, 1);
  await chain.extents(0, SIZE);
  await chain.close();
  expect(target).toEqual(patternBytes(1024, 512));
  expect(log.lines().map(({ msg }) => msg.replace(/ \d+us$/, ''))).toEqual([
    `open size=${SIZE}`,
    '#1 read offset=1024 length=512 ok',
    '#2 write offset=0 length=512 fua ok',
    '#3 zero offset=512 length=512 may-trim ok',
    '#4 trim offset=0 length=4096 ok',
    '#5 flush ok',
    '#6 cache offset=0 length=1 ok',
    `#7 extents offset=0 length=${SIZE} ok`,
    'close',
  ]);
  expect(log.lines()[2]).toMatchObject({
    filter: 'log',
    id: 2,
    operation: 'write',
    offset: 0,
    length: 512,
    fua: true,
    mayTrim: false,
    durationUs: expect.any(Number),
  });
  expect(log.lines().every(({ level }) => level === 30)).toBe(true);
});

it('tells failures, thrown or rejected, and passes them on', async () => {
  const log = captureLog();
  const fault = new FaultDevice(new PatternDevice(SIZE));
  const { chain } = await filterChain(fault, ['log'], log.logger);
  fault.fail({ times: 1, error: new BlockError('ENOSPC', 'full') });
  expect(() => chain.write(0, Buffer.alloc(1), false)).toThrow('full');
  fault.fail({ times: 1, rejects: true, error: new BlockError('EIO', 'a "bad" block\nhere') });
  await expect(chain.read(0, Buffer.alloc(1))).rejects.toThrow('bad');
  expect(
    log
      .lines()
      .slice(1)
      .map(({ msg }) => msg.replace(/ \d+us$/, '')),
  ).toEqual([
    '#1 write offset=0 length=1 ENOSPC "full"',
    '#2 read offset=0 length=1 EIO "a \\"bad\\" block\\nhere"',
  ]);
  expect(log.lines()[1]).toMatchObject({ error: 'ENOSPC "full"' });
});

it('tells a call when it was answered; with start also when it begins', async () => {
  const file = dir.file('calls.txt');
  const held = new HeldDevice(new PatternDevice(SIZE));
  const { chain } = await filterChain(held, [`log,file=${file},start`]);
  const first = chain.read(0, Buffer.alloc(1));
  const second = chain.flush();
  await held.waiting[1]?.release();
  await held.waiting[0]?.release();
  await Promise.all([first, second]);
  await chain.close();
  expect(linesOf(file)).toEqual([
    `disk open size=${SIZE}`,
    'disk #1 read offset=0 length=1 ...',
    'disk #2 flush ...',
    'disk #2 flush ok Nus',
    'disk #1 read offset=0 length=1 ok Nus',
    'disk close',
  ]);
});

describe('to a file', () => {
  it('adds to what is there, each line written when its call was answered', async () => {
    const file = dir.file('calls.txt');
    fs.writeFileSync(file, 'earlier\n');
    const { chain } = await filterChain(new PatternDevice(SIZE), [`log,file=${file}`]);
    await chain.flush();
    expect(linesOf(file)).toEqual(['earlier', `disk open size=${SIZE}`, 'disk #1 flush ok Nus']);
    await chain.close();
  });

  it('says what to do when it can’t be opened, and closes the disk', async () => {
    const disk = new PatternDevice(SIZE);
    const failed = filterChain(disk, [`log,file=${dir.file('no/such/dir')}`]);
    await expect(failed).rejects.toBeInstanceOf(OperationError);
    await expect(failed).rejects.toMatchObject({
      message: expect.stringMatching(/^filter log: can't open .*no\/such\/dir: ENOENT/),
      hint: expect.stringContaining('directory that exists'),
    });
    expect(disk.closes).toBe(1);
  });

  it.runIf(fs.existsSync('/dev/full'))('that fills the disk costs the log, not the guest', async () => {
    const log = captureLog();
    const { chain } = await filterChain(new PatternDevice(SIZE), ['log,file=/dev/full'], log.logger);
    const target = Buffer.alloc(8);
    for (const at of [0, 8, 16]) {
      await chain.read(at, target);
      expect(target).toEqual(patternBytes(at, 8));
    }
    await chain.close();
    expect(log.errors()).toEqual(["can't write to /dev/full; no more calls are logged"]);
  });
});

it('stays synchronous', async () => {
  const { chain } = await filterChain(new PatternDevice(SIZE), ['log']);
  expect(chain.read(0, Buffer.alloc(1))).toBeUndefined();
});
