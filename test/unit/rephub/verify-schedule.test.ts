// Who is verified when, and how fast, by a clock of the test's.
import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { Verification } from '../../../src/rephub/verification.ts';
import { type Verifiable, VerifySchedule } from '../../../src/rephub/verify-schedule.ts';
import type { DiskRange } from '../../../src/repwire/messages.ts';

const HOUR = 3_600_000;
const MiB = 2 ** 20;

beforeEach(() => {
  vi.useFakeTimers({
    toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'],
  });
});
afterEach(() => {
  vi.useRealTimers();
});

type Fake = { -readonly [K in keyof Verifiable]: Verifiable[K] };

describe('VerifySchedule', () => {
  let running: string[];
  let begun: string[];
  let finish: Array<(error?: Error) => void>;
  let schedule: VerifySchedule<Fake> | undefined;

  beforeEach(() => {
    running = [];
    begun = [];
    finish = [];
  });
  afterEach(() => schedule?.close());

  function replica(volumeName: string, verifiedAtMs: number, isProtected = true): Fake {
    return { volumeName, verifiedAtMs, isProtected };
  }

  function start(...replicas: Fake[]): void {
    schedule = new VerifySchedule<Fake>({
      everyMs: 24 * HOUR,
      replicas: () => replicas,
      verify: async (one) => {
        running.push(one.volumeName);
        begun.push(one.volumeName);
        await new Promise<void>((resolve, reject) => {
          finish.push((error) => (error ? reject(error) : resolve()));
        });
        running.pop();
        one.verifiedAtMs = Date.now();
      },
      logger: silentLogger,
    });
  }

  const minutes = (count: number) => vi.advanceTimersByTimeAsync(count * 60_000);

  it('takes one at a time, the one that waits longest first, and nobody who is not due', async () => {
    const now = Date.now();
    start(
      replica('fresh', now - HOUR),
      replica('old', now - 30 * HOUR),
      replica('never', 0),
      replica('away', 0, false),
    );
    await minutes(5);
    expect(running).toEqual(['never']);
    finish[0]!();
    await minutes(1);
    expect(running).toEqual(['old']);
    finish[1]!();
    await minutes(30);
    expect(begun).toEqual(['never', 'old']);
    await minutes(23 * 60);
    expect(begun).toEqual(['never', 'old', 'fresh']);
  });

  it('is due to the minute', async () => {
    start(replica('a', Date.now()));
    await minutes(24 * 60 - 1);
    expect(begun).toEqual([]);
    await minutes(1);
    expect(begun).toEqual(['a']);
  });

  it('tries what could not be finished again, not at once, and lets others go first', async () => {
    start(replica('bad', 0), replica('good', 1));
    await minutes(1);
    finish[0]!(new Error('busy'));
    await minutes(1);
    expect(begun).toEqual(['bad', 'good']);
    finish[1]!();
    await minutes(3);
    expect(begun).toHaveLength(2);
    await minutes(2);
    expect(begun).toEqual(['bad', 'good', 'bad']);
  });

  it('believes no time that lies in the future', async () => {
    start(replica('a', Date.now() + 1000 * HOUR));
    await minutes(1);
    expect(begun).toEqual(['a']);
  });

  it('goes on when the clock is set back', async () => {
    start(replica('bad', 0));
    await minutes(1);
    finish[0]!(new Error('busy'));
    vi.setSystemTime(Date.now() - 1000 * HOUR);
    await minutes(5);
    expect(begun).toEqual(['bad', 'bad']);
  });

  it('begins nothing once it is closed', async () => {
    start(replica('a', 0));
    schedule!.close();
    await minutes(10);
    expect(begun).toEqual([]);
  });
});

describe('a verification with a limit', () => {
  it('reads no faster, whatever the agent could, and is finished', async () => {
    const sizeBytes = 64 * MiB;
    const asked: Array<{ readonly atMs: number; readonly range: DiskRange }> = [];
    const zeroes = Buffer.alloc(256 * 1024);
    const digest = createHash('sha256').update(zeroes).digest();
    const verification: Verification = new Verification({
      replica: {
        volumeName: 'a',
        sizeBytes,
        isComparable: () => true,
        content: { read: (_offset, target) => void target.fill(0) },
      },
      tuning: { rangeBytes: 256 * 1024, minRangeBytes: 16 * 1024, window: 4, stallMs: 60_000, retryMs: 50 },
      bytesPerSecond: 4 * MiB,
      ask: (range) => {
        asked.push({ atMs: performance.now(), range });
        setTimeout(() => void verification.answered(range, digest), 1);
      },
      onProgress: () => {},
    });
    const beganMs = performance.now();
    verification.start();
    await vi.advanceTimersByTimeAsync(15_000);
    const readBytes = asked.reduce((sum, { range }) => sum + range.length, 0);
    expect(readBytes).toBeLessThanOrEqual(15 * 4 * MiB + 256 * 1024);
    expect(readBytes).toBeGreaterThan(15 * 4 * MiB * 0.9);
    await vi.advanceTimersByTimeAsync(2000);
    expect(await verification.result).toMatchObject({ comparedBytes: sizeBytes, differing: [] });
    expect(performance.now() - beganMs).toBeGreaterThanOrEqual(16_000);
  });
});
