// What people see: bars, figures, the status table at every width.
import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { ResyncRecord } from '../../../src/base/resync-log.ts';
import { describeResult } from '../../../src/cli/run/verify.ts';
import { judge } from '../../../src/cli/run/wait.ts';
import {
  bytesText,
  durationText,
  lagFiguresText,
  rateText,
  syncRateText,
  timeLeftText,
} from '../../../src/cli/view/figures.ts';
import { progressText } from '../../../src/cli/view/progress-line.ts';
import { statusLine, statusTable } from '../../../src/cli/view/status-table.ts';
import { bar, type Look, lookOf, paint, printable, shorten } from '../../../src/cli/view/terminal.ts';
import type { ResyncReads, VolumeStatus } from '../../../src/control/status.ts';
import { combineHubs } from '../../../src/repagent/hub-combination.ts';
import { sampleStatus, sampleVolume } from '../control/samples.ts';

const plain: Look = { columns: 120, color: false, unicode: false };
const fancy: Look = { columns: 120, color: true, unicode: true };

describe('terminal', () => {
  it('draws a bar that is full only at the end', () => {
    expect(bar(0, 10, plain)).toBe('----------');
    expect(bar(55, 10, plain)).toBe('#####-----');
    expect(bar(99.9, 10, plain)).toBe('#########-');
    expect(bar(100, 10, fancy)).toBe('██████████');
    expect(bar(250, 4, plain)).toBe('####');
    expect(bar(-3, 4, plain)).toBe('----');
  });

  it('disarms what a terminal would obey', () => {
    expect(printable('a\x1b[2Jb\n\u202ec')).toBe('a\u{fffd}[2Jb\u{fffd}\u{fffd}c');
    expect(printable('größe-磁盘')).toBe('größe-磁盘');
  });

  it('shortens by characters', () => {
    expect(shorten('abcdef', 4, plain)).toBe('abc~');
    expect(shorten('abcd', 4, plain)).toBe('abcd');
    expect(shorten('😀😀😀', 2, fancy)).toBe('😀…');
    expect(shorten('abc', 0, plain)).toBe('');
  });

  it('looks at the stream and the environment', () => {
    expect(lookOf({}, { LANG: 'C.UTF-8' })).toEqual({ columns: 120, color: false, unicode: true });
    expect(lookOf({ isTTY: true, columns: 40 }, { TERM: 'xterm' })).toEqual({
      columns: 40,
      color: true,
      unicode: false,
    });
    expect(lookOf({ isTTY: true }, { NO_COLOR: '1' }).color).toBe(false);
    expect(paint('x', 'red', plain)).toBe('x');
  });
});

describe('what a failover would give', () => {
  const table = (failoverTo: VolumeStatus['failoverTo']): string | undefined =>
    statusTable(
      sampleStatus([sampleVolume(failoverTo === undefined ? {} : { failoverTo })], { role: 'hub' }),
      plain,
    ).find((line) => line.includes('failover'));
  const timeMs = Date.parse('2030-01-02T03:04:05.006Z');

  it.each([
    [{ by: 'replica', timeMs, sequence: 7, isExact: true }, '2030-01-02T03:04:05.006Z'],
    [{ by: 'recover', timeMs, sequence: 7, isExact: true }, '2030-01-02T03:04:05.006Z by `repagent recover`'],
    [
      { by: 'replica', timeMs, sequence: 7, isExact: false },
      '2030-01-02T03:04:05.006Z or a little later, in part',
    ],
    [{ by: 'replica', timeMs: null, sequence: null, isExact: false }, 'unknown'],
    [null, 'none'],
  ] as const)('%j', (failoverTo, text) => {
    expect(table(failoverTo)).toBe(`  a failover now gives: ${text}`);
    expect(statusLine(sampleVolume({ failoverTo }))).toContain(`failover=${text.replaceAll(' ', '_')}`);
  });

  it('is not shown where nobody tells it', () => {
    expect(table(undefined)).toBeUndefined();
    expect(statusLine(sampleVolume())).not.toContain('failover');
  });
});

describe('figures', () => {
  it('say unknown, never 0', () => {
    for (const value of [null, undefined, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect([bytesText(value), durationText(value), rateText(value)]).toEqual([
        'unknown',
        'unknown',
        'unknown',
      ]);
    }
    expect(bytesText(0)).toBe('0 B');
    expect(durationText(0)).toBe('0ms');
  });

  it('have a rate and an end only while a sync runs', () => {
    expect(syncRateText(sampleVolume())).toBe('-');
    expect(timeLeftText(sampleVolume({ state: 'resync' }))).toBe('unknown');
    expect(timeLeftText(sampleVolume())).toBe('-');
    expect(timeLeftText(sampleVolume({ queuedBytes: 5, queueTimeLeftMs: 1200 }))).toBe('1s');
    expect(timeLeftText(sampleVolume({ queuedBytes: 5 }))).toBe('unknown');
    expect(syncRateText(sampleVolume({ state: 'initial-sync', syncBytesPerSecond: 2 ** 20 }))).toBe(
      '1 MiB/s',
    );
  });
});

describe('the lag over time', () => {
  const known = { p50Ms: 3, p99Ms: 12, maxMs: 4000, coveredSeconds: 60 };
  const partly = { p50Ms: 3, p99Ms: null, maxMs: null, coveredSeconds: 3600 };
  const volume = sampleVolume({ lagHistory: { lastMinute: known, lastHour: partly } });

  it('is in the wide table and in the line', () => {
    const wide = statusTable(sampleStatus([volume]), { ...plain, columns: 200 }).join('\n');
    expect(wide).toMatch(/LAG +p50\/p99\/max IN 1m +IN 1h/);
    expect(wide).toMatch(/ 3ms +3ms\/12ms\/4s +3ms\/unknown\/unknown /);
    expect(statusTable(sampleStatus([volume]), { ...plain, columns: 80 }).join('\n')).not.toContain('p99');
    expect(statusLine(volume)).toContain(' lag=3ms lag1m=3ms/12ms/4s');
  });

  it('is unknown before anything was seen', () => {
    expect(lagFiguresText({ ...known, coveredSeconds: 0 })).toBe('unknown');
    expect(lagFiguresText(undefined)).toBe('unknown');
  });
});

describe('the last resync', () => {
  const resync = {
    reason: 'link-lost',
    detail: 'gone\x1b[2J',
    furtherReasons: ['queue-full'],
    startedAt: '2030-01-02T03:04:05.000Z',
    durationMs: 2400,
    outcome: 'done',
    readBytes: 2 ** 20,
    comparedBytes: 0,
    differingBytes: null,
    changedBytes: 4096,
  } as const;
  const lines = (one: ResyncRecord): string[] =>
    statusTable(sampleStatus([sampleVolume({ resyncs: [one] })]), { ...plain, columns: 200 });

  it('has a line of its own below its volume', () => {
    expect(lines(resync).at(-1)).toBe(
      '  last resync: link-lost, queue-full (gone\u{fffd}[2J), 2030-01-02T03:04:05.000Z, done in 2s, read 1 MiB, for 4 KiB written',
    );
    const running = { ...resync, outcome: 'running', changedBytes: null, comparedBytes: 2048 } as const;
    expect(lines(running).at(-1)).toMatch(/^ {2}resync: .*, for 2s, read 1 MiB, compared 2 KiB$/);
  });
});

describe('a volume that clients cannot change now', () => {
  const paused = sampleVolume({ paused: { forMs: 1500, leftMs: 28_500, waitingCalls: 3 }, readOnly: true });

  it('says so beside its state', () => {
    expect(statusTable(sampleStatus([paused]), plain).join('\n')).toMatch(
      /disk +protected, paused, read-only /,
    );
    expect(statusLine(paused)).toContain(' state=protected paused=2s read-only sync=');
    expect(statusLine(sampleVolume({ paused: null, readOnly: false }))).toContain(' state=protected sync=');
  });
});

describe('statusTable', () => {
  const volumes = [
    sampleVolume({
      name: 'root',
      state: 'initial-sync',
      syncPercent: 41.9,
      syncBytesPerSecond: 2e6,
      syncTimeLeftMs: 61_000,
    }),
    sampleVolume({ name: 'a-volume-with-quite-a-long-name', lagMs: null, lastError: 'disk\x1b[31m full' }),
  ];

  it('names the workers where there are some, and how often one was started again', () => {
    const workers = [
      { pid: 7, state: 'running', volumes: ['a', 'c'], restarts: 0, lastError: null },
      { pid: null, state: 'restarting', volumes: ['b'], restarts: 2, lastError: 'it was ended by SIGKILL' },
    ] as const;
    const lines = statusTable(sampleStatus([sampleVolume()], { workers }), plain);
    expect(lines).toContain('worker 7: running: a, c');
    expect(lines).toContain('worker -: restarting, started again 2x: b');
  });

  it('shows every figure where there is room', () => {
    const text = statusTable(sampleStatus(volumes), { ...plain, columns: 200 }).join('\n');
    expect(text).toMatch(/agent 42 \(repagent 0\.1\.0\), listening nbd:\/\/127\.0\.0\.1:10809/);
    expect(text).toContain('hub 127.0.0.1:9010: live');
    expect(text).toMatch(/root +initial-sync +#####------- +41% +1\.9 MiB\/s +1m01s +0 B +0 B +12 +12 +3ms/);
    expect(text).toMatch(/a-volume-with-quite-a-long-name +protected +############ 100% .* unknown/);
    expect(text).toContain('last error: disk\u{fffd}[31m full');
    expect(text).not.toContain('\x1b');
  });

  it.each([200, 120, 100, 80, 60, 40, 30])('never is wider than %i columns', (columns) => {
    for (const look of [plain, fancy]) {
      for (const line of statusTable(sampleStatus(volumes), { ...look, columns })) {
        expect([...stripVTControlCharacters(line)].length).toBeLessThanOrEqual(columns);
      }
    }
  });

  it('keeps name and state to the last', () => {
    const lines = statusTable(sampleStatus([sampleVolume()]), { ...plain, columns: 30 });
    expect(lines.at(-1)).toMatch(/^disk +protected/);
  });

  it('colours states on a terminal', () => {
    const text = statusTable(sampleStatus([sampleVolume(), sampleVolume({ state: 'failed' })]), fancy).join(
      '\n',
    );
    expect(text).toContain('\x1b[32mprotected');
    expect(text).toContain('\x1b[31mfailed');
  });

  it('tells what is not there', () => {
    expect(statusTable(sampleStatus([]), plain).at(-1)).toBe('no volumes yet');
    expect(statusTable(sampleStatus([], { link: null }), plain)).toContain('no hub: nothing is replicated');
    const link = { hub: 'h:1', state: 'dialing', lastError: 'connection refused' };
    expect(statusTable(sampleStatus([], { link }), plain)).toContain('  last error: connection refused');
    expect(statusTable(sampleStatus([], { link }), plain)).toContain('hub h:1: dialing');
    const traffic = {
      sentBytes: 3 * 2 ** 20,
      plainBytes: 8 * 2 ** 20,
      bytesPerSecond: 3 * 2 ** 20,
      limitBytesPerSecond: null,
    };
    const [, unlimited] = statusTable(sampleStatus([], { link: { ...link, traffic } }), plain);
    expect(unlimited).toBe('hub h:1: dialing, sends 3 MiB/s');
    const limited = { ...traffic, limitBytesPerSecond: 20 * 2 ** 20 };
    const [, line] = statusTable(sampleStatus([], { link: { ...link, traffic: limited } }), plain);
    expect(line).toBe('hub h:1: dialing, sends 3 MiB/s of at most 20 MiB/s');
    const packed = { ...link, traffic, compression: 'brotli' };
    const [, last] = statusTable(sampleStatus([], { link: packed }), plain);
    expect(last).toBe('hub h:1: dialing, sends 3 MiB/s, brotli saved 5 MiB of 8 MiB');
  });

  it('says what is read for hubs now, and by which rule', () => {
    const MiB = 2 ** 20;
    const reads = { rate: 'auto' as const, readBytes: 7, bytesPerSecond: 3 * MiB, yielding: true };
    const line = (over: Partial<ResyncReads>): string[] =>
      statusTable(sampleStatus([], { resyncReads: { ...reads, ...over } }), plain).filter((text) =>
        text.startsWith('reads for hubs'),
      );
    expect(line({})).toEqual(['reads for hubs: 3 MiB/s, giving way to guests']);
    expect(line({ yielding: false })).toEqual(['reads for hubs: 3 MiB/s']);
    expect(line({ rate: 20 * MiB, yielding: false })).toEqual([
      'reads for hubs: 3 MiB/s of at most 20 MiB/s',
    ]);
    expect(line({ bytesPerSecond: null })).toEqual(['reads for hubs: unknown, giving way to guests']);
    expect(line({ bytesPerSecond: 0 })).toEqual([]);
  });

  it('names the machine of each volume at a hub', () => {
    const text = statusTable(
      sampleStatus([sampleVolume({ vmName: 'web' })], { role: 'hub', link: null }),
      plain,
    ).join('\n');
    expect(text).toMatch(/VOLUME +VM/);
    expect(text).toMatch(/disk +web/);
    expect(text).not.toContain('no hub');
    // What waits at the agent it can't know.
    expect(text).not.toContain('QUEUED');
    expect(statusLine(sampleVolume({ queuedBytes: null }))).toContain('queued=unknown');
  });
});

describe('several hubs', () => {
  const at = (hub: string, over: Partial<VolumeStatus>) => ({
    hub,
    address: `${hub}:1`,
    link: 'live',
    volume: sampleVolume(over),
  });
  const status = sampleStatus(
    [
      combineHubs([
        at('near', {}),
        at('far', { state: 'failed', lastError: 'its store is full', dirtyBytes: 2 ** 20 }),
      ]),
    ],
    {
      link: { name: 'far', hub: 'far:1', state: 'dialing', lastError: 'refused' },
      links: [
        { name: 'near', hub: 'h:1', state: 'live', lastError: null },
        { name: 'far:1', hub: 'far:1', state: 'dialing', lastError: 'refused' },
      ],
    },
  );

  it('have a line each, in the table and in its head', () => {
    const lines = statusTable(status, plain);
    expect(lines.slice(1, 4)).toEqual([
      'hub near (h:1): live',
      'hub far:1: dialing',
      '  last error: refused',
    ]);
    expect(lines.slice(5).map((line) => line.trimEnd().split(/ {2,}/).slice(0, 3).join('|'))).toEqual([
      expect.stringMatching(/^disk\|failed\|/),
      expect.stringMatching(/^\|at near\|protected/),
      expect.stringMatching(/^\|at far\|failed/),
      '|last error: its store is full',
    ]);
  });

  it('are told on the one line of a log', () => {
    expect(statusLine(status.volumes[0]!)).toMatch(
      / hubs=near:protected,far:failed error="far: its store is full"$/,
    );
    expect(statusLine(combineHubs([at('near', {})]))).not.toContain('hubs=');
  });

  it('are waited for all, or the one that was named', () => {
    expect(judge(status, 'protected', undefined, 'near')).toBe('reached');
    expect(judge(status, 'failed', undefined)).toBe('reached');
    expect(judge(status, 'protected', undefined)).toMatchObject({
      why: expect.stringMatching(/; hub far:1 is dialing \(refused\)$/) as string,
    });
    expect(judge(status, 'protected', 'disk', 'mid')).toEqual({
      why: 'there is no hub mid; there are: near, far',
    });
    expect(judge(sampleStatus([sampleVolume()]), 'protected', 'disk', 'mid')).toEqual({
      why: 'there is no hub mid; there are: none',
    });
  });
});

describe('statusLine', () => {
  it('is one line of words', () => {
    expect(statusLine(sampleVolume({ syncPercent: null, lagMs: null, lastError: 'a\nb' }))).toBe(
      'vm/disk state=protected sync=- rate=- left=- dirty=0B queued=0B sent=12 acked=12 lag=unknown error="a\u{fffd}b"',
    );
  });
});

describe('progressText', () => {
  it('shows how far, how fast, how long', () => {
    expect(progressText('x', { done: 2 ** 20, total: 2 ** 22, rate: 2 ** 20 }, plain)).toBe(
      'x  ######------------------   25%  1 MiB of 4 MiB  1 MiB/s  3s left',
    );
    expect(progressText('x', { done: 0, total: 0 }, plain)).toContain('100%');
    expect([...progressText('x', { done: 1, total: 2 }, { ...plain, columns: 20 })].length).toBeLessThan(20);
  });
});

describe('judge', () => {
  it('wants every volume, or the named one', () => {
    const status = sampleStatus([sampleVolume({ name: 'a' }), sampleVolume({ name: 'b', state: 'resync' })]);
    expect(judge(status, 'protected', 'a')).toBe('reached');
    expect(judge(status, 'protected', undefined)).toMatchObject({
      why: expect.stringContaining('b state=resync') as string,
    });
    expect(judge(status, 'protected', 'c')).toMatchObject({ why: 'there is no volume c; there are: a, b' });
    expect(judge(sampleStatus([]), 'protected', undefined)).toMatchObject({ why: 'there are no volumes' });
  });

  it('tells of the link when that is why', () => {
    const link = { hub: 'h:1', state: 'dialing', lastError: 'refused' };
    expect(
      judge(sampleStatus([sampleVolume({ state: 'degraded' })], { link }), 'protected', undefined),
    ).toMatchObject({
      why: expect.stringMatching(/hub h:1 is dialing \(refused\)$/) as string,
    });
  });
});

describe('describeResult', () => {
  it('names every range that differs', () => {
    expect(describeResult({ volume: 'a', comparedBytes: 2048, differing: [] }, 5)).toEqual([
      'a: 2 KiB compared in 5ms, equal',
    ]);
    expect(
      describeResult(
        {
          volume: 'a',
          comparedBytes: 8192,
          differing: [
            { offset: 512, length: 1024 },
            { offset: 4096, length: 512 },
          ],
        },
        1000,
      ),
    ).toEqual([
      'a: 8 KiB compared in 1s, DIFFERENT in 1.5 KiB:',
      '  offset 512 length 1024',
      '  offset 4096 length 512',
    ]);
  });
});
