import { beforeEach, describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { SyncBudget } from '../../../src/blockdev/sync-budget.ts';

describe('SyncBudget', () => {
  let now: number;
  let looks: number;
  let budget: SyncBudget;

  beforeEach(() => {
    now = 1000;
    looks = 0;
    budget = new SyncBudget(() => {
      looks += 1;
      return now;
    });
  });

  /** A call in place that takes `ms`. */
  function call(ms: number, length = 4096): void {
    const startedAt = budget.start();
    now += ms;
    budget.finish(startedAt, length);
  }

  function poolCall(ms: number, length = 4096): void {
    const startedAt = budget.startInPool();
    now += ms;
    budget.finishInPool(startedAt, length);
  }

  function calls(count: number, ms: number): void {
    for (let i = 0; i < count; i += 1) call(ms);
  }

  it('stays in place while calls are quick', () => {
    calls(10_000, 0.01);
    expect(budget.away).toBe(false);
    expect(budget.maySync()).toBe(true);
  });

  it('goes away after one seek of a cold disk', () => {
    calls(100, 0.01);
    call(10);
    expect(budget.maySync()).toBe(false);
  });

  it('goes away after many calls that are each a little slow', () => {
    calls(40, 0.2);
    expect(budget.maySync()).toBe(true);
    calls(10, 0.2);
    expect(budget.maySync()).toBe(false);
  });

  it('bears being preempted now and then', () => {
    for (let i = 0; i < 20; i += 1) {
      calls(300, 0.005);
      call(4);
    }
    expect(budget.away).toBe(false);
  });

  it('allows more time to larger calls', () => {
    for (let i = 0; i < 100; i += 1) call(1, 1 * MiB);
    expect(budget.away).toBe(false);
    for (let i = 0; i < 100; i += 1) call(1, 4096);
    expect(budget.away).toBe(true);
  });

  it('does not try again before a call on the thread pool was quick', () => {
    call(100);
    now += 60_000;
    expect(budget.maySync()).toBe(false);
    poolCall(50);
    expect(budget.maySync()).toBe(false);
    poolCall(0.5);
    expect(budget.maySync()).toBe(true);
  });

  it('does not try again before its time has come, and comes back when the try was quick', () => {
    call(100);
    poolCall(1);
    expect(budget.maySync()).toBe(false);
    now += 5;
    expect(budget.maySync()).toBe(true);
    call(0.01);
    expect(budget.away).toBe(false);
  });

  it('waits twice as long after each try that was slow, up to a second', () => {
    call(100);
    const waits: number[] = [];
    for (let i = 0; i < 10; i += 1) {
      poolCall(0);
      const from = now;
      while (!budget.maySync()) now += 1;
      waits.push(now - from);
      call(100);
    }
    expect(waits).toEqual([5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
  });

  it('forgets old slowness once it was quick for long', () => {
    for (let i = 0; i < 6; i += 1) {
      call(100);
      poolCall(0);
      while (!budget.maySync()) now += 1;
    }
    calls(300, 0.01);
    // Trusted: every fourth call is measured.
    calls(4, 100);
    poolCall(0);
    now += 5;
    expect(budget.maySync()).toBe(true);
  });

  it('measures fewer calls of a device that it trusts, and still notices that it went cold', () => {
    calls(256, 0.01);
    looks = 0;
    calls(400, 0.01);
    expect(looks).toBe(200);
    calls(4, 10);
    expect(budget.away).toBe(true);
  });
});
