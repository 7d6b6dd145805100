// When a volume goes back from its dirty map to the stream, by a clock of the test's: at the edges of each threshold.
import { beforeEach, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { MirrorStream, type StreamMember } from '../../../src/repagent/mirror-stream.ts';
import { DEFAULT_HOLD, OverflowHold } from '../../../src/repagent/overflow-hold.ts';

let nowMs = 0;
beforeEach(() => {
  nowMs = 1000;
});

describe('OverflowHold', () => {
  it('holds nothing after a steady time, more each time after a short one, up to the longest', () => {
    const hold = new OverflowHold(DEFAULT_HOLD, () => nowMs);
    const waits: number[] = [];
    for (let round = 0; round < 9; round += 1) {
      hold.overflowed();
      waits.push(hold.waitMs);
      nowMs += hold.waitMs;
      expect(hold.waitMs).toBe(0);
      hold.resumed();
      nowMs += DEFAULT_HOLD.steadyMs - 1;
    }
    expect(waits).toEqual([0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
    nowMs += 1;
    hold.overflowed();
    expect(hold.waitMs).toBe(0);
  });

  it('ends one millisecond after the last that it holds', () => {
    const hold = new OverflowHold(DEFAULT_HOLD, () => nowMs);
    hold.overflowed();
    hold.resumed();
    hold.overflowed();
    nowMs += DEFAULT_HOLD.firstMs - 1;
    expect(hold.waitMs).toBe(1);
    nowMs += 1;
    expect(hold.waitMs).toBe(0);
  });
});

describe('a stream whose hub is a little too slow', () => {
  class Member implements StreamMember {
    readonly sizeBytes = 2 ** 40;
    readonly wireId = 7n;
    queuedBytes = 0;
    resumed = 0;

    resumeStream(): void {
      this.resumed += 1;
    }
  }

  /** Fills the queue until it overflows. */
  function fill(stream: MirrorStream, member: Member): void {
    while (stream.write(member, 0, Buffer.alloc(64 * KiB)) > 0);
  }

  /** The hub takes entries until at most `share` of the queue is full. */
  function drainTo(stream: MirrorStream, share: number): void {
    while (stream.queue.bytes > share * stream.queue.limitBytes) stream.queue.release(stream.queue.shift());
  }

  it('changes seldom between degraded and protected, and never early', () => {
    const changes: string[] = [];
    const events = {
      wake: () => {},
      lost: () => {},
      degraded: (some: boolean) => void changes.push(some ? 'degraded' : 'protected'),
    };
    const hold = new OverflowHold(DEFAULT_HOLD, () => nowMs);
    const stream = new MirrorStream(MiB, () => 0, events, hold);
    stream.open(true);
    const member = new Member();
    fill(stream, member);
    drainTo(stream, 0.6);
    stream.recover();
    expect(changes).toEqual(['degraded']);
    drainTo(stream, 0.5);
    stream.recover();
    expect(changes).toEqual(['degraded', 'protected']);
    // A minute in which the queue fills whenever it may, and empties within ten milliseconds.
    for (const end = nowMs + 60_000; nowMs < end; nowMs += 10) {
      fill(stream, member);
      drainTo(stream, 0);
      stream.recover();
    }
    const returns = changes.filter((change) => change === 'protected').length;
    expect(returns).toBeGreaterThan(6);
    expect(returns).toBeLessThan(15);
    expect(member.resumed).toBe(returns);
    // At the end of the agent nothing is held.
    fill(stream, member);
    expect(hold.waitMs).toBeGreaterThan(0);
    drainTo(stream, 0);
    stream.hurry();
    stream.recover();
    expect(changes.at(-1)).toBe('protected');
    stream.shut();
  });
});
