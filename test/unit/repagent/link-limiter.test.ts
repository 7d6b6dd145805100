// The limit of what is sent to the hub, on a clock of the test's: how much leaves in which time, when the limit changes,
// and who gets the link when several want it.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { parseBandwidth } from '../../../src/cli/parse-bandwidth.ts';
import { LinkLimiter } from '../../../src/repagent/link-limiter.ts';
import { MirrorStream, type StreamMember } from '../../../src/repagent/mirror-stream.ts';
import { StreamSender } from '../../../src/repagent/stream-sender.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FakeOutlet } from './outlet.ts';

/** Local noon of a Wednesday. */
const NOON = new Date(2026, 6, 8, 12, 0, 0).getTime();

class Clock {
  nowMs = 5000;
  wallMs = NOON;
  pass(ms: number): void {
    this.nowMs += ms;
    this.wallMs += ms;
  }
  limiter(text: string): LinkLimiter {
    return new LinkLimiter(parseBandwidth(text), { nowMs: () => this.nowMs, wallMs: () => this.wallMs });
  }
}

describe('the limiter', () => {
  it('lets so much through in any time and no more, and all of it while something waits', () => {
    const sizes = fc.array(fc.record({ bytes: fc.integer({ min: 1, max: 400_000 }), idleMs: fc.nat(300) }), {
      minLength: 1,
      maxLength: 60,
    });
    fc.assert(
      fc.property(fc.integer({ min: 64, max: 50_000 }), sizes, (kib, frames) => {
        const perSecond = kib * KiB;
        const clock = new Clock();
        const limiter = clock.limiter(`${kib}K`);
        const sent: Array<{ atMs: number; bytes: number }> = [];
        for (const { bytes, idleMs } of frames) {
          clock.pass(idleMs);
          // Timers have whole milliseconds and are never early.
          for (let waitMs = limiter.waitMs(); waitMs > 0; waitMs = limiter.waitMs())
            clock.pass(Math.ceil(waitMs));
          limiter.take(bytes);
          sent.push({ atMs: clock.nowMs, bytes });
        }
        for (let from = 0; from < sent.length; from += 1) {
          let sum = 0;
          for (let to = from; to < sent.length; to += 1) {
            const seconds = (sent[to]!.atMs - sent[from]!.atMs) / 1000;
            // A quarter of a second was saved up at most, and the last frame went into debt.
            expect(sum).toBeLessThanOrEqual(perSecond * (seconds + 0.25) + 1);
            sum += sent[to]!.bytes;
          }
        }
      }),
    );
  });

  it('changes with the minute in which a rule begins or ends, in the middle of a wait too', () => {
    const clock = new Clock();
    clock.wallMs = NOON - 10_000;
    const limiter = clock.limiter('12:00-12:01 1M, else 64K');
    expect(limiter.traffic.limitBytesPerSecond).toBe(64 * KiB);
    limiter.take(32 * MiB);
    // The debt is more than eight minutes; in ten seconds it is worth looking again.
    expect(limiter.waitMs()).toBe(10_000);
    clock.pass(10_000);
    expect(limiter.traffic.limitBytesPerSecond).toBe(MiB);
    expect(limiter.waitMs()).toBeGreaterThan(30_000);
    expect(limiter.waitMs()).toBeLessThan(32_000);
    clock.pass(60_000);
    expect([limiter.waitMs(), limiter.traffic.limitBytesPerSecond]).toEqual([0, 64 * KiB]);
  });

  it('forgets a debt where the limit ends, and follows a clock that is set', () => {
    const clock = new Clock();
    const limiter = clock.limiter('12:00-13:00 unlimited, else 64K');
    expect([limiter.isLimited, limiter.traffic.limitBytesPerSecond]).toEqual([false, null]);
    clock.wallMs -= 3_600_000;
    expect(limiter.isLimited).toBe(true);
    limiter.take(MiB);
    expect(limiter.waitMs()).toBeGreaterThan(10_000);
    clock.wallMs += 3_600_000;
    expect([limiter.waitMs(), limiter.isLimited]).toEqual([0, false]);
  });

  it('measures what is sent, with and without a limit', () => {
    const clock = new Clock();
    const limiter = clock.limiter('unlimited');
    expect(limiter.traffic).toEqual({
      sentBytes: 0,
      plainBytes: 0,
      bytesPerSecond: null,
      limitBytesPerSecond: null,
    });
    for (let second = 0; second < 6; second += 1) {
      limiter.take(1000 * (second + 1));
      clock.pass(1000);
    }
    // Of the last four seconds: 3, 4, 5 and 6 thousand.
    expect(limiter.traffic).toMatchObject({ sentBytes: 21_000, bytesPerSecond: 4500 });
    clock.pass(3000);
    expect(limiter.traffic.bytesPerSecond).toBe(1500);
    clock.pass(60_000);
    expect(limiter.traffic).toMatchObject({ sentBytes: 21_000, bytesPerSecond: 0 });
  });
});

describe('a sender under a limit', () => {
  const member: StreamMember = { wireId: 7n, sizeBytes: 2 ** 40, queuedBytes: 0, resumeStream: () => {} };
  let outlet: FakeOutlet;
  let stream: MirrorStream;
  let sender: StreamSender;

  beforeEach(() => {
    vi.useFakeTimers({
      toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'clearImmediate', 'performance'],
    });
    vi.setSystemTime(NOON);
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function start(bandwidth: string, queueBytes = 64 * MiB): LinkLimiter {
    outlet = new FakeOutlet();
    const limiter = new LinkLimiter(parseBandwidth(bandwidth), {
      nowMs: () => performance.now(),
      wallMs: () => NOON + performance.now(),
    });
    stream = new MirrorStream(queueBytes, () => 1, {
      wake: () => sender.wake(),
      lost: () => {},
      degraded: () => {},
    });
    stream.open(true);
    sender = new StreamSender({
      outlet,
      queue: stream.queue,
      extensions: true,
      limiter,
      onRoom: () => stream.recover(),
      onFault: (error) => {
        throw error;
      },
    });
    return limiter;
  }

  const sentBytes = (): number => outlet.sends.reduce((sum, bytes) => sum + bytes, 0);

  function answer(bytes: number, over = (): void => {}): void {
    const extension = { sequence: 0, allZero: false };
    const head = encode.encodeRemoteIoResponse(1, 7n, 0, bytes, extension);
    sender.answer({ head, data: Buffer.alloc(bytes), over });
  }

  it('sends the stream at the rate, in order, each frame whole', async () => {
    start('1M');
    for (let i = 0; i < 64; i += 1) stream.write(member, i * 64 * KiB, Buffer.alloc(64 * KiB, i));
    await vi.advanceTimersByTimeAsync(1000);
    expect(sentBytes()).toBeGreaterThan(1.1 * MiB);
    expect(sentBytes()).toBeLessThan(1.4 * MiB);
    await vi.advanceTimersByTimeAsync(3000);
    expect(outlet.messages.map((one) => 'offset' in one && one.offset / (64 * KiB))).toEqual([
      ...Array(64).keys(),
    ]);
    expect(sender.isIdle).toBe(true);
    expect(stream.queue.bytes).toBe(0);
  });

  it('fills the queue instead of making anybody wait, and takes no turns meanwhile', async () => {
    start('64K', MiB);
    const writes = Array.from({ length: 64 }, (_, i) =>
      stream.write(member, i * 64 * KiB, Buffer.alloc(64 * KiB)),
    );
    expect(writes.slice(0, 15).every((sequence) => sequence > 0)).toBe(true);
    expect(writes.at(-1)).toBe(0);
    expect(stream.hasDegraded).toBe(true);
    await vi.advanceTimersByTimeAsync(100);
    expect(vi.getTimerCount()).toBe(1);
    for (let i = 0; i < 100; i += 1) sender.wake();
    expect(vi.getTimerCount()).toBe(1);
  });

  it('gives the stream and the answers half each while both want it, and all to the one that does', async () => {
    start('1M');
    let answered = 0;
    for (let i = 0; i < 128; i += 1) stream.write(member, 0, Buffer.alloc(32 * KiB));
    for (let i = 0; i < 16; i += 1) answer(256 * KiB, () => (answered += 256 * KiB));
    await vi.advanceTimersByTimeAsync(4000);
    expect(sentBytes()).toBeLessThan(4.6 * MiB);
    const streamed = sentBytes() - answered;
    expect(Math.abs(streamed - answered)).toBeLessThan(0.5 * MiB);
    await vi.advanceTimersByTimeAsync(5000);
    expect([sender.isIdle, answered]).toEqual([true, 4 * MiB]);
  });

  it('goes on at once when the limit ends, and stops with the connection', async () => {
    start('12:00-12:01 64K, else unlimited');
    const step = 60_000 - (performance.now() % 60_000);
    for (let i = 0; i < 64; i += 1) stream.write(member, 0, Buffer.alloc(256 * KiB));
    await vi.advanceTimersByTimeAsync(Math.max(0, step - 10));
    expect(outlet.messages.length).toBeLessThan(20);
    await vi.advanceTimersByTimeAsync(210);
    expect([outlet.messages.length, sender.isIdle]).toEqual([64, true]);
    start('64K');
    let over = 0;
    for (let i = 0; i < 8; i += 1) answer(MiB, () => (over += 1));
    await vi.advanceTimersByTimeAsync(100);
    expect(over).toBe(1);
    sender.stop();
    expect([over, vi.getTimerCount()]).toEqual([8, 0]);
  });
});
