// What is kept of unflushed changes, its bounds, and the order in which it is sent once more.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { CopyArena } from '../../../src/blockdev/nbd-client/copy-arena.ts';
import { Replay } from '../../../src/blockdev/nbd-client/replay.ts';
import { logCost, UnflushedLog } from '../../../src/blockdev/nbd-client/unflushed-log.ts';
import { NBD_CMD, NBD_CMD_FLAG_FUA } from '../../../src/nbdwire/constants.ts';
import { pattern } from '../../support/disk-model.ts';

const { WRITE, WRITE_ZEROES } = NBD_CMD;

function write(log: UnflushedLog, offset: number, length = 512, flags = 0): void {
  log.add(WRITE, flags, offset, length, pattern(length, offset));
}
const offsets = (log: UnflushedLog): number[] => log.entries().map((entry) => entry.offset);

describe('UnflushedLog', () => {
  it('keeps a copy of what was written, whatever becomes of the buffer', () => {
    const log = new UnflushedLog(1 * MiB);
    const data = pattern(4096, 1);
    log.add(WRITE, 0, 0, 4096, data);
    data.fill(0);
    expect(log.entries()[0]!.data!.bytes.equals(pattern(4096, 1))).toBe(true);
  });

  it('forgets what a flush covers, and nothing that came after it was submitted', () => {
    const log = new UnflushedLog(1 * MiB);
    write(log, 0);
    write(log, 512);
    const mark = log.mark;
    write(log, 1024);
    log.release(mark);
    expect(offsets(log)).toEqual([1024]);
    expect(log.size).toBe(1);
    expect(log.bytes).toBe(logCost(WRITE, 512));
    log.release(mark);
    expect(log.size).toBe(1);
    log.release(log.mark);
    expect([log.size, log.bytes]).toEqual([0, 0]);
  });

  it('keeps a durable change only while an older one could undo it', () => {
    const log = new UnflushedLog(1 * MiB);
    write(log, 0, 512, NBD_CMD_FLAG_FUA);
    expect(log.size).toBe(0);
    write(log, 512);
    write(log, 0, 512, NBD_CMD_FLAG_FUA);
    expect(offsets(log)).toEqual([512, 0]);
  });

  it('keeps zeroes without bytes, yet not for free', () => {
    const log = new UnflushedLog(1 * MiB);
    log.add(WRITE_ZEROES, 0, 0, 1 << 30, undefined);
    expect(log.entries()[0]).toMatchObject({ command: WRITE_ZEROES, length: 1 << 30, data: undefined });
    expect(log.bytes).toBeGreaterThan(0);
    expect(log.bytes).toBeLessThan(1024);
  });

  it('only counts when it may keep nothing', () => {
    const log = new UnflushedLog(0);
    write(log, 0);
    write(log, 512);
    expect([log.size, log.bytes, log.entries().length]).toEqual([2, 0, 0]);
    log.release(1);
    expect(log.size).toBe(1);
  });

  it('stays what it is over many changes', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.constant('write'), fc.nat(5000)), { maxLength: 200 }), (steps) => {
        const log = new UnflushedLog(64 * MiB);
        const model: number[] = [];
        let next = 0;
        let released = 0;
        for (const step of steps) {
          if (step === 'write') {
            for (let i = 0; i < 97; i += 1, next += 1) {
              write(log, next, 8);
              model.push(next);
            }
          } else {
            const mark = Math.min(next, released + (step as number));
            log.release(mark);
            model.splice(0, mark - released);
            released = mark;
          }
        }
        expect(offsets(log)).toEqual(model);
        expect(log.bytes).toBe(model.length * logCost(WRITE, 8));
      }),
      { numRuns: 30 },
    );
  });
});

describe('CopyArena', () => {
  it('holds copies of every size apart, and gives its memory back', () => {
    const arena = new CopyArena(0);
    const lengths = [1, 512, 4 * KiB, 255 * KiB, 256 * KiB, 257 * KiB, 3 * MiB, 700, 200 * KiB, 256 * KiB];
    const copies = lengths.map((length, i) => arena.copy(pattern(length, i)));
    copies.forEach((copy, i) => {
      expect(copy.bytes.equals(pattern(lengths[i]!, i)), `copy ${i}`).toBe(true);
    });
    for (const copy of copies) copy.release();
    arena.close();
    expect(arena.liveBytes).toBe(0);
  });
});

describe('Replay', () => {
  function replay(ranges: Array<[number, number]>): Replay {
    const log = new UnflushedLog(1 * MiB);
    for (const [offset, length] of ranges) write(log, offset, length);
    return new Replay(log.entries());
  }

  it('is finished at once when there is nothing', () => {
    expect(replay([]).finished).toBe(true);
  });

  it('sends what does not overlap together, and what does one after the other', () => {
    const run = replay([
      [0, 1024],
      [1024, 1024],
      [512, 512],
      [4096, 512],
    ]);
    const first = run.take()!;
    const second = run.take()!;
    expect([first.offset, second.offset]).toEqual([0, 1024]);
    expect(run.take()).toBeUndefined();
    run.answered(second);
    expect(run.take()).toBeUndefined();
    run.answered(first);
    const third = run.take()!;
    const fourth = run.take()!;
    expect([third.offset, fourth.offset]).toEqual([512, 4096]);
    expect(run.take()).toBeUndefined();
    expect(run.finished).toBe(false);
    run.answered(third);
    run.answered(fourth);
    expect(run.finished).toBe(true);
  });
});
