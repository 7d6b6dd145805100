// The agent's smaller parts, each by itself.
import fs from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError } from '../../../src/base/errors.ts';
import { loadAgentId } from '../../../src/repagent/agent-id.ts';
import {
  LINK_STATES,
  type LinkEvent,
  type LinkState,
  nextLinkState,
} from '../../../src/repagent/link-states.ts';
import { RangeWatches } from '../../../src/repagent/range-watch.ts';
import { SyncMeter } from '../../../src/repagent/sync-meter.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

describe('the agent id', () => {
  let dir: TempDir;
  beforeEach(() => {
    dir = tempDir();
  });
  afterEach(() => dir.remove());

  it('is made once, kept readable for its owner alone, and found again', async () => {
    const state = dir.file('a/b');
    const id = await loadAgentId(state);
    expect(id.length).toBe(16);
    expect(await loadAgentId(state)).toEqual(id);
    const { mode } = await fs.stat(`${state}/agent-id`);
    expect(mode % 0o1000).toBe(0o600);
    expect(await fs.readdir(state)).toEqual(['agent-id']);
    expect(await loadAgentId(dir.file('other'))).not.toEqual(id);
  });

  it('is one, however many agents make it at the same moment', async () => {
    const ids = await Promise.all(Array.from({ length: 8 }, () => loadAgentId(dir.path)));
    expect(new Set(ids.map((id) => id.toString('hex'))).size).toBe(1);
    expect(await fs.readdir(dir.path)).toEqual(['agent-id']);
  });

  it('is never replaced: a file that holds something else is an error that says what to do', async () => {
    for (const content of [
      '',
      'xyz',
      '0'.repeat(31),
      '0'.repeat(33),
      `${'0'.repeat(32)}\n\n`,
      'G'.repeat(32),
    ]) {
      await fs.writeFile(dir.file('agent-id'), content);
      const error = await loadAgentId(dir.path).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(OperationError);
      expect((error as OperationError).hint).toContain('rm ');
      expect(await fs.readFile(dir.file('agent-id'), 'utf8')).toBe(content);
    }
  });

  it('needs a directory that can be used', async () => {
    await fs.writeFile(dir.file('file'), '');
    await expect(loadAgentId(dir.file('file/below'))).rejects.toThrow(OperationError);
    await fs.mkdir(dir.file('agent-id'));
    const error = await loadAgentId(dir.path).catch((thrown: unknown) => thrown);
    expect((error as OperationError).hint).toContain('--state-dir');
  });
});

describe('the states of the link', () => {
  const states = Object.keys(LINK_STATES) as LinkState[];
  const events: LinkEvent[] = [
    'dial',
    'connected',
    'negotiated',
    'overflowed',
    'recovered',
    'lost',
    'close',
    'ended',
  ];

  it('have one end, which nothing leads out of and every state leads to', () => {
    expect(events.every((event) => nextLinkState('closed', event) === 'closed')).toBe(true);
    for (const state of states) {
      expect(nextLinkState(nextLinkState(state, 'close'), 'ended')).toBe('closed');
      if (state !== 'closed') expect(Object.keys(LINK_STATES[state].on).length).toBeGreaterThan(0);
    }
  });

  it('are all reached, and lost from anywhere before the end', () => {
    const reached = new Set<LinkState>(['idle']);
    for (const state of reached) for (const event of events) reached.add(nextLinkState(state, event));
    expect([...reached].sort()).toEqual([...states].sort());
    for (const state of ['dialing', 'hello', 'live', 'degraded'] as const) {
      expect(nextLinkState(state, 'lost')).toBe('idle');
    }
    expect(nextLinkState('closing', 'lost')).toBe('closing');
  });

  it('lead through a usual life', () => {
    const life: LinkEvent[] = [
      'dial',
      'connected',
      'negotiated',
      'overflowed',
      'recovered',
      'lost',
      'dial',
      'lost',
      'close',
      'ended',
    ];
    let state: LinkState = 'idle';
    const path = life.map((event) => {
      state = nextLinkState(state, event);
      return state;
    });
    expect(path).toEqual([
      'dialing',
      'hello',
      'live',
      'degraded',
      'live',
      'idle',
      'dialing',
      'idle',
      'closing',
      'closed',
    ]);
    for (const each of states) expect(LINK_STATES[each].sentence).toMatch(/^[A-Z].*\.$/);
  });
});

describe('a watch on a range', () => {
  it('sees what touches it, and only that', () => {
    const watches = new RangeWatches();
    const watch = watches.begin(1024, 1024);
    watches.touch(0, 1024);
    watches.touch(2048, 512);
    expect(watch.touched).toBe(false);
    watches.touch(2047, 1);
    expect(watch.touched).toBe(true);
    const other = watches.begin(0, 512);
    watches.end(watch);
    watches.end(watch);
    expect(watches.isEmpty).toBe(false);
    watches.end(other);
    expect(watches.isEmpty).toBe(true);
  });
});

describe('the meter of a synchronisation', () => {
  it('knows nothing before it was told anything', () => {
    const meter = new SyncMeter(() => 0);
    expect(meter.progress).toEqual({ percent: null, bytesPerSecond: null, timeLeftMs: null });
    meter.note(0, 0);
    expect(meter.progress.percent).toBeNull();
  });

  it('looks back a few seconds, not to the beginning', () => {
    let now = 0;
    const meter = new SyncMeter(() => now);
    meter.note(0, 10_000);
    for (let second = 1; second <= 20; second += 1) {
      now = second * 1000;
      meter.note(second <= 10 ? second * 100 : 1000 + (second - 10) * 200, 10_000);
    }
    expect(meter.progress).toEqual({ percent: 30, bytesPerSecond: 200, timeLeftMs: 35_000 });
    now += 60_000;
    meter.note(3000, 10_000);
    now += 60_000;
    meter.note(3000, 10_000);
    expect(meter.progress).toEqual({ percent: 30, bytesPerSecond: 0, timeLeftMs: null });
  });

  it('slows down while nothing is told any more, and knows no end then', () => {
    let now = 0;
    const meter = new SyncMeter(() => now);
    for (; now <= 5000; now += 500) meter.note(now, 10_000);
    now = 6000;
    expect(meter.progress.bytesPerSecond).toBe(1000);
    now = 11_000;
    expect(meter.progress).toMatchObject({ bytesPerSecond: 500, timeLeftMs: 10_000 });
    now = 16_000;
    expect(meter.progress).toEqual({ percent: 50, bytesPerSecond: 0, timeLeftMs: null });
  });

  it('begins anew when there is less done than before, and with each synchronisation', () => {
    let now = 0;
    const meter = new SyncMeter(() => now);
    meter.note(500, 1000);
    now = 1000;
    meter.note(100, 1000);
    expect(meter.progress).toEqual({ percent: 10, bytesPerSecond: null, timeLeftMs: null });
    meter.restart();
    expect(meter.progress.percent).toBeNull();
    expect([meter.doneBytes, meter.totalBytes]).toEqual([0, 0]);
  });
});
