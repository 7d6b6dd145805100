import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  RECOVERY_CELLS,
  type RecoveryCell,
  recoveryCellId,
  selectRecoveryCells,
} from '../../../src/bench/recovery/cells.ts';
import { percentiles } from '../../../src/bench/recovery/lag.ts';
import { mapFigures } from '../../../src/bench/recovery/map-cost.ts';
import { recoveryHeading, recoveryMarkdown, recoveryTables } from '../../../src/bench/recovery/report.ts';
import type { RecoveryResult } from '../../../src/bench/recovery/result.ts';
import { recoverySeconds } from '../../../src/bench/recovery/run.ts';
import { WriteLog } from '../../../src/bench/recovery/write-log.ts';
import { BENCH_PLACE, RECOVERY_PLACE, replaceFigures } from '../../../src/bench/report-document.ts';
import { markdownTable, textTable } from '../../../src/bench/report-table.ts';

const KIB = 1024;
const CHUNK = 64 * KIB;

/** A line as fio writes it: answered at `ms`, after `us`. */
const line = (ms: number, us: number, offset: number, length = 4 * KIB, direction = 1): string =>
  `${1000 + ms}, ${us * 1000}, ${direction}, ${length}, ${offset}, 0\n`;
const period = (from: number, to: number) => ({ fromMs: 1000 + from, toMs: 1000 + to });

describe('what the client wrote', () => {
  const log = WriteLog.parse(
    line(10, 500, 0) +
      line(20, 15_000, CHUNK) +
      line(30, 100, 4 * KIB) +
      line(30, 100, 4 * KIB, 4 * KIB, 0) +
      line(40, 200, 3 * CHUNK - KIB, 2 * KIB),
  );

  test('counts each write as often as it was made, reads never', () => {
    expect(log.writtenBytes(period(0, 50))).toBe(14 * KIB);
  });

  test('counts a chunk once, and every chunk that a write touches', () => {
    expect(log.chunkBytes(period(0, 50), CHUNK, 100 * CHUNK)).toBe(4 * CHUNK);
    expect(log.chunkBytes(period(0, 30), CHUNK, 100 * CHUNK)).toBe(2 * CHUNK);
  });

  test("the last chunk is no larger than the disk's end", () => {
    expect(log.chunkBytes(period(35, 50), CHUNK, 3 * CHUNK + 512)).toBe(CHUNK + 512);
  });

  test('a write belongs to a period in which it began and ended', () => {
    expect(log.writtenBytes(period(6, 25))).toBe(4 * KIB);
    expect(log.writtenBytes(period(4, 25))).toBe(8 * KIB);
    expect(log.writtenBytes(period(9.4, 19))).toBe(4 * KIB);
  });

  test('latency is of the writes that were answered in a period', () => {
    expect(log.latency(period(0, 50))).toEqual({ writes: 4, p50Us: 200, p99Us: 15_000, maxUs: 15_000 });
    expect(log.latency(period(100, 200))).toMatchObject({ writes: 0, p99Us: undefined, maxUs: undefined });
  });

  test.each([
    ['nothing', '', /no writes/],
    ['reads alone', line(1, 1, 0, 4096, 0), /no writes/],
    ['another form', '1, 2\n', /another form/],
    ['half a line', line(1, 1, 0) + line(2, 1, 0).slice(0, 12), /another form/],
  ])('%s is no log', (_, text, message) => {
    expect(() => WriteLog.parse(text)).toThrow(message);
  });
});

describe('cells', () => {
  test('have ids of their own, by which they are chosen', () => {
    const ids = RECOVERY_CELLS.map(recoveryCellId);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids).toContain('outage-4k-randwrite-1000iops-killed');
    expect(ids).toContain('lag-4k-randwrite-qd32');
    expect(ids).toContain('map-4k-randwrite-qd32-64k');
    expect(selectRecoveryCells([])).toEqual(RECOVERY_CELLS);
    expect(selectRecoveryCells(['*-stopped', 'map-*']).map(recoveryCellId)).toEqual(
      ids.filter((id) => id.endsWith('-stopped') || id.startsWith('map-')),
    );
    expect(() => selectRecoveryCells(['map-*', 'nothing'])).toThrow(/"nothing" is none of outage-/);
  });

  test('a longer outage and more rounds take longer', () => {
    const times = { outageSeconds: 5, rounds: 2, roundSeconds: 1 };
    const before = recoverySeconds(RECOVERY_CELLS, times);
    expect(recoverySeconds(RECOVERY_CELLS, { ...times, outageSeconds: 10 }) - before).toBe(8 * 5);
    expect(recoverySeconds(RECOVERY_CELLS, { ...times, rounds: 3 })).toBeGreaterThan(before);
  });
});

describe('figures', () => {
  test('an unknown lag is worse than any other', () => {
    expect(percentiles([1, 2, 3, 4])).toEqual({ p50Ms: 2, p99Ms: 4, maxMs: 4 });
    expect(percentiles([1, Number.POSITIVE_INFINITY, 2])).toEqual({ p50Ms: 2, p99Ms: null, maxMs: null });
    expect(percentiles([Number.POSITIVE_INFINITY])).toEqual({ p50Ms: null, p99Ms: null, maxMs: null });
  });

  test('of a map are medians, and shares of all writes', () => {
    const round = { ios: 1000, p50Us: 10, p99Us: undefined, agentCpuSeconds: 0.02, bitWrites: 100, syncs: 1 };
    const rounds = [900, 1000, 1100].map((iops) => ({ ...round, iops }));
    expect(mapFigures('file', rounds)).toEqual({
      ...{ keeping: 'file', iops: 1000, spread: 0.2, p50Us: 10, p99Us: undefined },
      ...{ agentCpuPerMillion: expect.closeTo(20), newBitShare: 0.1, syncsPerWrite: 0.001 },
      roundIops: [900, 1000, 1100],
    });
  });
});

function cellOf<K extends RecoveryCell['kind']>(kind: K): Extract<RecoveryCell, { kind: K }> {
  return RECOVERY_CELLS.find((cell) => cell.kind === kind) as Extract<RecoveryCell, { kind: K }>;
}

const latency = { writes: 3, p50Us: 100, p99Us: 2000, maxUs: 3500 };
const none = { writes: 0, p50Us: undefined, p99Us: undefined, maxUs: undefined };
const mapRound = { ios: 1000, p50Us: 10, p99Us: 20, agentCpuSeconds: 0.02, bitWrites: 100, syncs: 0 };
const RESULT: RecoveryResult = {
  ...{ kind: 'recovery', repagentVersion: '0.1.0', date: '2026-01-02T03:04:05.000Z' },
  ...{ outageSeconds: 60, sizeBytes: 2 ** 30, granularityBytes: CHUNK, rounds: 8, roundSeconds: 3 },
  machine: {
    ...{ processor: 'A <Processor>', processors: 2, memoryBytes: 2 ** 34 },
    ...{ system: 'Linux 6', node: 'v20', loadBefore: 0.5 },
  },
  outages: [
    {
      ...{ id: recoveryCellId(cellOf('outage')), cell: cellOf('outage'), outageMs: 60_100, isEqual: true },
      missed: { writtenBytes: 2 ** 28, chunkBytes: 2 ** 29 },
      ...{ countedBytes: 2 ** 28, certainChunkBytes: 2 ** 29, readBytes: 2 ** 29 * 1.01, comparedBytes: 0 },
      ...{
        readPerChunk: 1.01,
        readPerWritten: 2.02,
        resyncs: [],
        attachedAfterMs: 900,
        protectedAfterMs: 2500,
      },
      latency: { before: latency, during: latency, recovering: none },
    },
  ],
  lags: [
    {
      ...{ id: recoveryCellId(cellOf('lag')), cell: cellOf('lag'), seconds: 60, iops: 999.6, samples: 1100 },
      ...{ bytesPerSecond: 2 ** 22, protectedShare: 0.995, isEqual: true },
      sampled: { p50Ms: 4.2, p99Ms: 20, maxMs: null },
      worstOfSecond: { p50Ms: 9, p99Ms: 21, maxMs: 30 },
    },
  ],
  maps: [
    {
      ...{ id: recoveryCellId(cellOf('map')), cell: cellOf('map'), isEqual: true },
      keepings: [
        mapFigures('memory', [{ ...mapRound, iops: 1100, bitWrites: 0 }]),
        mapFigures('file', [{ ...mapRound, iops: 1000 }]),
      ],
    },
  ],
};

describe('report', () => {
  const text = [...recoveryHeading(RESULT), ...recoveryTables(RESULT).map(textTable)].join('\n');

  test('names the machine and what was done', () => {
    expect(text).toContain('A <Processor>, 2 processors, 16 GiB, Linux 6, Node v20; load before: 0.50');
    expect(text).toContain('volume of 1 GiB in chunks of 64 KiB; outages and lags of 60 s');
  });

  test('shows what was missed and read, lags with what is unknown, and what a map costs', () => {
    expect(text).toMatch(/4k-randwrite-1000iops-killed +256 MiB +512 MiB +517 MiB +1\.01x +2\.02x/);
    expect(text).toMatch(/0\.10 \/ 2\.00 \/ 3\.50 +0\.10 \/ 2\.00 \/ 3\.50 +- \/ - \/ -/);
    expect(text).toMatch(/4k-randwrite-1000iops +1000 +4\.0 +4\.2 +20 +unknown +9 +21 +30 +99\.5%/);
    expect(text).toMatch(/4k-randwrite-qd32 +64 KiB +in memory +1\.1k ±0% +1\.00x/);
    expect(text).toMatch(/4k-randwrite-qd32 +64 KiB +in a file +1\.0k ±0% +1\.10x +20\.0 +10 \/ 20 +10% +0%/);
  });

  test('every row of a Markdown table has as many columns as its head', () => {
    for (const table of recoveryTables(RESULT)) {
      const lines = markdownTable(table).trim().split('\n').slice(2);
      expect(new Set(lines.map((row) => row.split('|').length)).size).toBe(1);
    }
  });

  test('has a place of its own in the document, and leaves the other', () => {
    const document = readFileSync(new URL('../../../docs/PERFORMANCE.md', import.meta.url), 'utf8');
    const mine = replaceFigures(document, recoveryMarkdown(RESULT), RECOVERY_PLACE);
    expect(mine).toContain('517 MiB');
    const both = replaceFigures(mine, 'THE BENCH', BENCH_PLACE);
    expect(both).toContain('517 MiB');
    expect(replaceFigures(both, 'X', RECOVERY_PLACE)).not.toContain('517 MiB');
    expect(() => replaceFigures('# Title\n', '', RECOVERY_PLACE)).toThrow(/bench --recovery --report/);
  });
});
