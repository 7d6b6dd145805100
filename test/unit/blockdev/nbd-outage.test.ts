// When to dial again, and when those who wait have waited long enough.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { backoffMs, DEFAULT_BACKOFF } from '../../../src/blockdev/nbd-client/backoff.ts';
import { whatChanged } from '../../../src/blockdev/nbd-client/export-change.ts';
import { type ConnectionLife, Outage } from '../../../src/blockdev/nbd-client/outage.ts';
import { NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_FUA } from '../../../src/nbdwire/constants.ts';
import { ALL_FLAGS } from './nbd-fake-server.ts';

describe('backoffMs', () => {
  it('dials at once, then doubles up to its limit, within half and whole', () => {
    expect(backoffMs(0, DEFAULT_BACKOFF, 0.99)).toBe(0);
    expect([1, 2, 3, 4].map((n) => backoffMs(n, DEFAULT_BACKOFF, 0))).toEqual([25, 50, 100, 200]);
    expect([1, 2, 3, 4].map((n) => backoffMs(n, DEFAULT_BACKOFF, 1))).toEqual([50, 100, 200, 400]);
    expect(backoffMs(1e9, DEFAULT_BACKOFF, 1)).toBe(DEFAULT_BACKOFF.maxMs);
  });
});

describe('Outage', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const GOOD: ConnectionLife = { upMs: 100, answers: 1, wanted: true };
  const MUTE: ConnectionLife = { upMs: 100, answers: 0, wanted: true };
  const NEVER_UP: ConnectionLife = { upMs: undefined, answers: 0, wanted: true };

  function make(): { outage: Outage; givenUp: () => number } {
    let count = 0;
    const outage = new Outage({ firstMs: 10, maxMs: 100 }, 1000, () => {
      count += 1;
    });
    return { outage, givenUp: () => count };
  }

  it('gives up once, after its limit, counted from the first loss', () => {
    const { outage, givenUp } = make();
    outage.began(GOOD);
    vi.advanceTimersByTime(600);
    outage.began(NEVER_UP);
    vi.advanceTimersByTime(399);
    expect([givenUp(), outage.overdue]).toEqual([0, false]);
    vi.advanceTimersByTime(1);
    expect([givenUp(), outage.overdue]).toEqual([1, true]);
    vi.advanceTimersByTime(5000);
    expect(givenUp()).toBe(1);
    outage.began(NEVER_UP);
    expect(givenUp()).toBe(2);
    outage.ended();
    expect(outage.overdue).toBe(false);
  });

  it('starts anew when the server had answered meanwhile', () => {
    const { outage, givenUp } = make();
    outage.began(GOOD);
    vi.advanceTimersByTime(900);
    outage.ended();
    outage.began(GOOD);
    vi.advanceTimersByTime(900);
    expect(givenUp()).toBe(0);
  });

  it('goes on counting when the server only accepted', () => {
    const { outage, givenUp } = make();
    outage.began(GOOD);
    vi.advanceTimersByTime(900);
    outage.ended();
    vi.advanceTimersByTime(500);
    outage.began(MUTE);
    vi.advanceTimersByTime(0);
    expect(givenUp()).toBe(1);
  });

  it('does not hold silence against a server that was asked nothing', () => {
    const { outage, givenUp } = make();
    outage.began(GOOD);
    vi.advanceTimersByTime(900);
    outage.ended();
    vi.advanceTimersByTime(500);
    outage.began({ ...MUTE, wanted: false });
    vi.advanceTimersByTime(999);
    expect(givenUp()).toBe(0);
  });

  it('pauses longer each time, and starts over after an answer', () => {
    const { outage } = make();
    let retries = 0;
    const pause = (life: ConnectionLife, ms: number): void => {
      const before = retries;
      outage.began(life);
      outage.pause(() => {
        retries += 1;
      });
      vi.advanceTimersByTime(ms);
      expect(retries).toBe(before + 1);
    };
    pause(GOOD, 0);
    pause(NEVER_UP, 10);
    pause(NEVER_UP, 20);
    expect(outage.attempts).toBe(3);
    pause(MUTE, 40);
    expect(outage.attempts).toBe(4);
    pause(GOOD, 0);
    expect(outage.attempts).toBe(1);
  });

  it('leaves no timer behind', () => {
    const { outage } = make();
    outage.began(GOOD);
    outage.pause(() => {});
    outage.stop();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('whatChanged', () => {
  const before = {
    sizeBytes: 4096,
    flags: ALL_FLAGS - NBD_FLAG_SEND_FUA,
    minBlockBytes: 512,
    preferredBlockBytes: 4096,
    maxPayloadBytes: 65536,
    style: 'structured',
    allocationId: 1,
  } as const;

  it('accepts the same, and what only got better', () => {
    expect(whatChanged(before, before)).toBeUndefined();
    const better = {
      ...before,
      style: 'extended' as const,
      flags: ALL_FLAGS,
      minBlockBytes: 1,
      maxPayloadBytes: 1 << 20,
    };
    expect(whatChanged(before, better)).toBeUndefined();
  });

  it.each([
    [{ sizeBytes: 3584 }, /size shrank from 4096 to 3584/],
    [{ flags: before.flags | NBD_FLAG_READ_ONLY }, /became read-only/],
    [{ flags: 1 }, /no longer offers FLUSH/],
    [{ minBlockBytes: 4096 }, /block size grew from 512 to 4096/],
    [{ maxPayloadBytes: 4096 }, /shrank from 65536 to 4096/],
  ])('refuses %o', (change, words) => {
    expect(whatChanged(before, { ...before, ...change })).toMatch(words);
  });
});
