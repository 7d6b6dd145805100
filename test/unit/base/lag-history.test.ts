// The lag's windows: exact between notes, never better than what is known.
import { describe, expect, it } from 'vitest';
import { LagHistory } from '../../../src/base/lag-history.ts';

const START = 10_000_000;

describe('LagHistory', () => {
  it('knows nothing before the first note', () => {
    const none = { p50Ms: null, p99Ms: null, maxMs: null, coveredSeconds: 0 };
    expect(new LagHistory().windows).toEqual({ lastMinute: none, lastHour: none });
  });

  it('keeps the longest lag of a second, however it was noted', () => {
    const history = new LagHistory();
    for (const [lag, at] of [
      [5, 0],
      [40, 300],
      [0, 301],
      [7, 999],
    ] as const)
      history.note(lag, START + at);
    expect(history.windows.lastMinute).toEqual({ p50Ms: 40, p99Ms: 40, maxMs: 40, coveredSeconds: 1 });
  });

  it('has a lag grow with time while nobody looks', () => {
    const history = new LagHistory();
    history.note(0, START);
    // A change of 10 s ago has not been acknowledged: 11 s ago there was none.
    history.note(10_000, START + 20_500);
    const { lastMinute } = history.windows;
    expect(lastMinute.coveredSeconds).toBe(21);
    expect(lastMinute.maxMs).toBe(10_000);
    // Eleven of 21 seconds ended with a lag: 0.5, 1.5, ... 9.5 and 10 s.
    expect(lastMinute.p50Ms).toBe(500);
    history.note(0, START + 20_501);
    expect(history.windows.lastMinute.maxMs).toBe(10_000);
  });

  it('counts an unknown lag as the worst, never as 0', () => {
    const history = new LagHistory();
    for (let second = 0; second < 10; second += 1) history.note(3, START + second * 1000);
    history.note(null, START + 10_000);
    expect(history.windows.lastMinute).toEqual({
      p50Ms: 3,
      p99Ms: null,
      maxMs: null,
      coveredSeconds: 11,
    });
    for (let second = 11; second < 30; second += 1) history.note(null, START + second * 1000);
    expect(history.windows.lastMinute.p50Ms).toBeNull();
  });

  it('forgets what left its windows', () => {
    const history = new LagHistory();
    history.note(9000, START);
    history.note(0, START + 1);
    for (let second = 1; second <= 120; second += 1) history.note(2, START + second * 1000);
    expect(history.windows.lastMinute).toEqual({ p50Ms: 2, p99Ms: 2, maxMs: 2, coveredSeconds: 60 });
    expect(history.windows.lastHour).toMatchObject({ p50Ms: 2, maxMs: 9000, coveredSeconds: 121 });
    history.note(0, START + 7_300_000);
    expect(history.windows.lastHour).toEqual({ p50Ms: 0, p99Ms: 0, maxMs: 0, coveredSeconds: 3600 });
  });

  it('takes no harm from a clock that goes back', () => {
    const history = new LagHistory();
    history.note(4, START);
    history.note(100, START - 5000);
    expect(history.windows.lastMinute).toMatchObject({ maxMs: 4, coveredSeconds: 1 });
  });
});
