// The small parts of the hub, each alone: identity, states, stream positions, requests, commits, retries, rates, clocks.
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { steadyUs } from '../../../src/base/steady-clock.ts';
import { VOLUME_STATES } from '../../../src/control/status.ts';
import { type CommitSteps, GroupCommit } from '../../../src/rephub/group-commit.ts';
import { Heartbeat } from '../../../src/rephub/heartbeat.ts';
import { loadHubIdentity } from '../../../src/rephub/hub-id.ts';
import {
  nextState,
  REPLICA_EVENTS,
  REPLICA_STATES,
  type ReplicaEvent,
} from '../../../src/rephub/replica-states.ts';
import { RequestTable } from '../../../src/rephub/request-table.ts';
import { RetryTimer } from '../../../src/rephub/retry-timer.ts';
import { SESSION_PHASES } from '../../../src/rephub/session-phases.ts';
import { StreamPosition } from '../../../src/rephub/stream-position.ts';
import { SyncMeter } from '../../../src/rephub/sync-meter.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { settled } from '../../support/test-devices.ts';

describe('the hub’s identity', () => {
  it('survives restarts where it is kept, its epoch never', async () => {
    const dir = tempDir();
    const state = dir.file('deep/state');
    const first = await loadHubIdentity(state);
    const second = await loadHubIdentity(state);
    expect(second.id).toEqual(first.id);
    expect(second.epoch).not.toBe(first.epoch);
    expect(fs.readdirSync(state)).toEqual(['hub-id']);
    dir.remove();
  });

  it('is one for two hubs that start together', async () => {
    const dir = tempDir();
    const both = await Promise.all([loadHubIdentity(dir.path), loadHubIdentity(dir.path)]);
    expect(both[0].id).toEqual(both[1].id);
    dir.remove();
  });

  it('is for one life where there is no place for it', async () => {
    expect((await loadHubIdentity(undefined)).id).not.toEqual((await loadHubIdentity(undefined)).id);
  });

  it('is not made up when the file holds something else', async () => {
    const dir = tempDir();
    fs.writeFileSync(dir.file('hub-id'), 'not an id\n');
    await expect(loadHubIdentity(dir.path)).rejects.toThrow('does not hold a hub id');
    await expect(loadHubIdentity(dir.file('hub-id'))).rejects.toThrow("can't keep its id");
    dir.remove();
  });
});

describe('the states of a replica', () => {
  it('each have a sentence, and lead only to states', () => {
    for (const state of VOLUME_STATES) {
      expect(REPLICA_STATES[state].sentence).toMatch(/^[A-Z].*\.$/);
      for (const next of Object.values(REPLICA_STATES[state].next)) expect(VOLUME_STATES).toContain(next);
    }
  });

  it('take no event that is not in the table', () => {
    expect(nextState('initial-sync', 'allRead')).toBe('converging');
    for (const state of VOLUME_STATES) {
      for (const event of Object.keys(REPLICA_EVENTS) as ReplicaEvent[]) {
        if (REPLICA_STATES[state].next[event] !== undefined) continue;
        expect(() => nextState(state, event)).toThrow(`${event} can't happen to a replica that is ${state}`);
      }
    }
  });

  it('lead to protected only from converging, by everything being durable', () => {
    for (const state of VOLUME_STATES) {
      for (const [event, next] of Object.entries(REPLICA_STATES[state].next)) {
        if (next === 'protected') expect([state, event]).toEqual(['converging', 'settled']);
      }
    }
  });
});

describe('the phases of a connection', () => {
  it('take nothing of the stream before the handshake and after the goodbye', () => {
    for (const phase of ['reporting', 'greeting', 'goodbye'] as const) {
      for (const kind of ['protectedWrite', 'protectedZero', 'protectedFlush', 'dirty'] as const) {
        expect(SESSION_PHASES[phase].takes.has(kind)).toBe(false);
      }
    }
    for (const row of Object.values(SESSION_PHASES)) expect(row.takes.has('ack')).toBe(false);
  });
});

describe('StreamPosition', () => {
  it('begins anywhere and goes on without a gap', () => {
    const position = new StreamPosition();
    position.take(17);
    position.take(18);
    expect(position.received).toBe(18);
    for (const wrong of [18, 20, 17, 1]) expect(() => position.take(wrong)).toThrow('changes are missing');
    expect(position.received).toBe(18);
  });

  it('refuses numbers below the first', () => {
    expect(() => new StreamPosition().take(0)).toThrow('when 1 was due');
  });

  it('counts a list of dirty ranges once, when it is complete', () => {
    const position = new StreamPosition();
    position.takeDirty(1n, 5, true);
    expect(position.received).toBe(4);
    position.takeDirty(1n, 5, true);
    position.takeDirty(1n, 5, false);
    expect(position.received).toBe(5);
    position.takeDirty(2n, 6, false);
    expect(position.received).toBe(6);
  });

  it('lets nothing come inside such a list', () => {
    const open = () => {
      const position = new StreamPosition();
      position.takeDirty(1n, 5, true);
      return position;
    };
    expect(() => open().take(6)).toThrow('inside the DIRTY list 5');
    expect(() => open().takeDirty(2n, 5, false)).toThrow('inside the list 5');
    expect(() => open().takeDirty(1n, 6, false)).toThrow('inside the list 5');
  });
});

describe('RequestTable', () => {
  it('gives each open request a number of its own, and knows it once', () => {
    const table = new RequestTable<string>('ANSWER');
    const ids = ['a', 'b', 'c'].map((request) => table.add(request));
    expect(new Set(ids).size).toBe(3);
    expect(table.take(ids[1]!)).toBe('b');
    expect(() => table.take(ids[1]!)).toThrow('ANSWER 2 answers nothing that was asked');
    expect(table.size).toBe(2);
  });
});

describe('GroupCommit', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function setUp(gatherMs = 10) {
    const log: string[] = [];
    let isReady = true;
    const ends: Array<{ resolve: () => void; reject: (error: unknown) => void }> = [];
    const steps: CommitSteps = {
      ready: () => isReady,
      gatherMs: () => gatherMs,
      begin: () => {
        log.push('begin');
        return new Promise<void>((resolve, reject) => {
          ends.push({ resolve, reject });
        });
      },
      done: () => log.push('done'),
      failed: (error) => log.push(`failed ${String(error)}`),
    };
    const commits = new GroupCommit(steps);
    return { log, commits, ends, setReady: (ready: boolean) => (isReady = ready) };
  }

  it('never begins during the request, runs one at a time, and goes on with what came meanwhile', async () => {
    const { log, commits, ends } = setUp();
    commits.request();
    commits.request();
    expect(log).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(log).toEqual(['begin']);
    commits.request(true);
    vi.advanceTimersByTime(100);
    expect(log).toEqual(['begin']);
    ends[0]!.resolve();
    await settled();
    vi.advanceTimersByTime(1);
    expect(log).toEqual(['begin', 'done', 'begin']);
    ends[1]!.resolve();
    await settled();
    vi.advanceTimersByTime(100);
    expect(log).toEqual(['begin', 'done', 'begin', 'done']);
  });

  it('gathers between the starts of two commits, unless one is urgent', async () => {
    const { log, commits, ends } = setUp(10);
    commits.request();
    vi.advanceTimersByTime(1);
    ends[0]!.resolve();
    await settled();
    commits.request();
    vi.advanceTimersByTime(5);
    expect(log).toEqual(['begin', 'done']);
    commits.request(true);
    vi.advanceTimersByTime(1);
    expect(log).toEqual(['begin', 'done', 'begin']);
  });

  it('waits until what is being stored is whole', () => {
    const { log, commits, setReady } = setUp();
    setReady(false);
    commits.request();
    vi.advanceTimersByTime(100);
    expect(log).toEqual([]);
    setReady(true);
    commits.poke();
    vi.advanceTimersByTime(100);
    expect(log).toEqual(['begin']);
  });

  it('reports a failure, and nothing after it was closed', async () => {
    const { log, commits, ends } = setUp();
    commits.request();
    vi.advanceTimersByTime(1);
    ends[0]!.reject('EIO');
    await settled();
    expect(log).toEqual(['begin', 'failed EIO']);
    commits.request();
    vi.advanceTimersByTime(20);
    commits.close();
    ends[1]!.resolve();
    await settled();
    commits.request();
    vi.advanceTimersByTime(100);
    expect(log).toEqual(['begin', 'failed EIO', 'begin']);
  });
});

describe('RetryTimer', () => {
  it('waits twice as long each time, up to a limit, and begins anew after a success', () => {
    vi.useFakeTimers();
    const at: number[] = [];
    const began = Date.now();
    const timer = new RetryTimer(
      10,
      35,
      () => at.push(Date.now() - began),
      () => 0,
    );
    for (let i = 0; i < 4; i += 1) {
      timer.start();
      timer.start();
      vi.advanceTimersByTime(50);
    }
    expect(at).toEqual([10, 70, 135, 185]);
    timer.start();
    timer.reset();
    vi.advanceTimersByTime(100);
    expect(at).toHaveLength(4);
    timer.start();
    vi.advanceTimersByTime(10);
    expect(at).toHaveLength(5);
    vi.useRealTimers();
  });
});

describe('RetryTimer’s scatter', () => {
  it('shortens each wait by a quarter at most', () => {
    vi.useFakeTimers();
    let done = 0;
    const timer = new RetryTimer(
      1000,
      1000,
      () => {
        done += 1;
      },
      () => 0.999,
    );
    timer.start();
    vi.advanceTimersByTime(749);
    expect(done).toBe(0);
    vi.advanceTimersByTime(2);
    expect(done).toBe(1);
    vi.useRealTimers();
  });
});

describe('SyncMeter', () => {
  it('tells the rate of the last seconds and the time that is left', () => {
    const meter = new SyncMeter();
    meter.start(1000);
    expect(meter.bytesPerSecond(1050)).toBeNull();
    for (let now = 1000; now < 3000; now += 10) meter.add(1000, now);
    expect(meter.bytesPerSecond(3000)).toBeCloseTo(100_000, -3);
    expect(meter.timeLeftMs(200_000, 3000)).toBeCloseTo(2000, -2);
    for (let now = 3000; now < 13_000; now += 10) meter.add(10, now);
    expect(meter.bytesPerSecond(13_000)).toBeCloseTo(1000, -2);
    expect(meter.bytesPerSecond(60_000)).toBe(0);
    expect(meter.timeLeftMs(1, 60_000)).toBeNull();
  });
});

describe('Heartbeat', () => {
  it('knows how far the other clock is off from the quickest answer', () => {
    const pings: Array<[bigint, number]> = [];
    const heart = new Heartbeat({
      intervalMs: 1000,
      deadMs: 5000,
      ping: (token, timeUs) => pings.push([token, timeUs]),
      died: () => {},
    });
    expect(heart.clockOffsetUs).toBeNull();
    heart.pong(99n, 5);
    expect(heart.clockOffsetUs).toBeNull();
    heart.pong(pings[0]![0], steadyUs() + 3_600_000_000);
    expect(Math.abs(heart.clockOffsetUs! - 3_600_000_000)).toBeLessThan(50_000);
    heart.stop();
  });

  it.each([-3600, 3600])('believes no older answer once the clock was set by %i s', (seconds) => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    const pings: bigint[] = [];
    const heart = new Heartbeat({
      intervalMs: 1000,
      deadMs: 60_000,
      ping: (token) => pings.push(token),
      died: () => {},
    });
    const answer = (offsetUs: number, roundTripMs: number) => {
      vi.advanceTimersByTime(roundTripMs);
      heart.pong(pings.at(-1)!, steadyUs() + offsetUs);
      vi.advanceTimersByTime(1000 - roundTripMs);
    };
    answer(0, 10);
    answer(0, 100);
    // Of no later answer it may be said that it tells less of the clock as it is now.
    answer(seconds * 1e6, 200);
    expect(Math.abs(heart.clockOffsetUs! - seconds * 1e6)).toBeLessThanOrEqual(100_000);
    answer(seconds * 1e6, 20);
    expect(Math.abs(heart.clockOffsetUs! - seconds * 1e6)).toBeLessThanOrEqual(10_000);
    // A slow answer is no sign of another clock.
    answer(seconds * 1e6, 900);
    expect(Math.abs(heart.clockOffsetUs! - seconds * 1e6)).toBeLessThanOrEqual(10_000);
    heart.stop();
    vi.useRealTimers();
  });

  it('gives silence one more round before it is death, in case this process stood still', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    let deaths = 0;
    const heart = new Heartbeat({
      intervalMs: 10,
      deadMs: 25,
      ping: () => {},
      died: () => {
        deaths += 1;
        heart.stop();
      },
    });
    vi.advanceTimersByTime(30);
    expect(deaths).toBe(0);
    heart.heard();
    vi.advanceTimersByTime(30);
    expect(deaths).toBe(0);
    heart.hold(true);
    vi.advanceTimersByTime(500);
    expect(deaths).toBe(0);
    heart.hold(false);
    vi.advanceTimersByTime(50);
    expect(deaths).toBe(1);
    vi.useRealTimers();
  });
});
