import { describe, expect, test } from 'vitest';
import { parseCellId } from '../../../src/bench/matrix.ts';
import { benchChart } from '../../../src/bench/report-chart.ts';
import { BENCH_PLACE, benchMarkdown, replaceFigures } from '../../../src/bench/report-document.ts';
import { benchHeading, benchTables, markdownTable, textTable } from '../../../src/bench/report-table.ts';
import {
  type BenchResult,
  type CellResult,
  cellFigures,
  type Round,
  ratioTo,
  summarize,
} from '../../../src/bench/result.ts';

function round(iops: number, blockBytes: number): Round {
  const ios = iops * 2;
  return {
    ...{ iops, ios, bytes: ios * blockBytes, bytesPerSecond: iops * blockBytes },
    ...{ p50Us: 10, p99Us: 20, serverCpuSeconds: 0.5, clientCpuSeconds: 0.25, serverPeakBytes: iops },
  };
}

function cell(id: string, speeds: Readonly<Record<string, readonly number[]>>): CellResult {
  const parsed = parseCellId(id)!;
  const servers = Object.entries(speeds).map(([name, iops]) =>
    cellFigures(
      name,
      iops.map((one) => round(one, parsed.blockBytes)),
    ),
  );
  return { id, cell: parsed, servers };
}

const servers = [
  { name: 'repagent', role: 'subject', describe: '', version: '0.1.0' },
  { name: 'nbdkit', role: 'peer', describe: '', version: '1.32.5' },
  { name: 'null', role: 'floor', describe: '', version: '' },
] as const;
const cells = [
  cell('4k-randread-qd1', { repagent: [900, 1000, 1100], nbdkit: [2000, 1000, 2000], null: [4000] }),
  cell('256k-write-qd8', { repagent: [800], nbdkit: [200], null: [1600] }),
  cell('256k-write-qd8-mirror', { repagent: [400], null: [800] }),
];
const RESULT: BenchResult = {
  ...{
    repagentVersion: '0.1.0',
    date: '2026-01-02T03:04:05.000Z',
    rounds: 3,
    seconds: 2,
    sizeBytes: 2 ** 28,
  },
  machine: {
    ...{ processor: 'A <Processor>', processors: 2, memoryBytes: 2 ** 34 },
    ...{ system: 'Linux 6', node: 'v20', loadBefore: 0.5 },
  },
  servers,
  cells,
  leftOut: [{ server: 'qemu-nbd', where: 'every cell', why: 'not | installed' }],
  memory: [{ server: 'repagent', restBytes: 2 ** 26, peakBytes: 2 ** 27, idleConnectionBytes: 6144 }],
  summary: summarize(cells, servers),
};

describe('figures', () => {
  test('of a cell are medians, and CPU time per work done', () => {
    const figures = cells[0]!.servers[0]!;
    expect(figures).toMatchObject({ iops: 1000, bytesPerSecond: 4_096_000, spread: 0.2, peakBytes: 1100 });
    expect(figures.serverCpuPerMillionIos).toBeCloseTo(250);
    expect(figures.clientCpuPerMillionIos).toBeCloseTo(125);
    expect(figures.serverCpuPerGib).toBeCloseTo((1.5 * 2 ** 30) / (6000 * 4096));
  });

  test('a ratio above 1 means that ours is faster', () => {
    expect(ratioTo(cells[0]!, 'nbdkit')).toBe(0.5);
    expect(ratioTo(cells[1]!, 'nbdkit')).toBe(4);
    expect(ratioTo(cells[2]!, 'nbdkit')).toBeUndefined();
  });

  test('the summary has mean and worst cell for each server, mirroring apart', () => {
    expect(RESULT.summary).toEqual([
      {
        ...{ server: 'nbdkit', mirror: false, cells: 2, geometricMean: expect.closeTo(Math.SQRT2) },
        worst: { id: '4k-randread-qd1', ratio: 0.5 },
        slower: [{ id: '4k-randread-qd1', ratio: 0.5 }],
      },
      {
        ...{ server: 'null', mirror: false, cells: 2, geometricMean: expect.closeTo(Math.sqrt(0.125)) },
        worst: { id: '4k-randread-qd1', ratio: 0.25 },
        slower: [
          { id: '4k-randread-qd1', ratio: 0.25 },
          { id: '256k-write-qd8', ratio: 0.5 },
        ],
      },
      {
        ...{ server: 'null', mirror: true, cells: 1, geometricMean: 0.5 },
        worst: { id: '256k-write-qd8-mirror', ratio: 0.5 },
        slower: [{ id: '256k-write-qd8-mirror', ratio: 0.5 }],
      },
    ]);
  });

  test('what the rounds can explain is not called slower', () => {
    const near = { repagent: [900, 1000, 1100], nbdkit: [1000, 1100, 1200] };
    const clear = { repagent: [990, 1000, 1010], nbdkit: [1090, 1100, 1110] };
    const slower = (speeds: Record<string, number[]>) =>
      summarize([cell('4k-randread-qd1', speeds)], servers)[0]!.slower.map(({ id }) => id);
    expect([slower(near), slower(clear)]).toEqual([[], ['4k-randread-qd1']]);
  });
});

describe('report', () => {
  test('names the machine, and what is left out', () => {
    const text = [...benchHeading(RESULT), ...benchTables(RESULT).map(textTable)].join('\n');
    expect(text).toContain('A <Processor>, 2 processors, 16 GiB, Linux 6, Node v20; load before: 0.50');
    expect(text).toContain('3 interleaved rounds of 2 s');
    expect(text).toMatch(/LEFT OUT\n.*\n {2}qemu-nbd +every cell +not \| installed/);
  });

  test('shows requests per second for small blocks, bytes for large ones, spread and ratio', () => {
    const text = benchTables(RESULT).map(textTable).join('\n');
    expect(text).toMatch(/4k-randread-qd1 +1\.0k ±10% +2\.0k ±25% \(0\.50x\) +4\.0k \(0\.25x\)/);
    expect(text).toMatch(/256k-write-qd8 +200 MiB\/s +50 MiB\/s \(4\.00x\)/);
    expect(text).toMatch(/null \(floor\) \(mirroring\) +1 +0\.50x/);
    expect(text).toMatch(/nbdkit +2 +1\.41x +0\.50x +4k-randread-qd1 +4k-randread-qd1\n/);
    expect(text).toMatch(/repagent +64 MiB +128 MiB +6 KiB/);
  });

  test('says what TLS, filters and mirroring cost where the load was measured without them', () => {
    const text = benchTables(RESULT).map(textTable).join('\n');
    expect(text).toMatch(/as slow as.*\n +cell +repagent\n +256k-write-qd8-mirror +2\.00x\n\n/);
  });

  test('every row of a Markdown table has as many columns as its head', () => {
    for (const table of benchTables(RESULT)) {
      const lines = markdownTable(table).trim().split('\n').slice(2);
      const columns = lines.map((line) => line.replaceAll('\\|', '').split('|').length);
      expect(new Set(columns).size).toBe(1);
    }
  });

  test('goes between the markers, and leaves the rest; twice gives the same', () => {
    const document = `# Title\n\n${BENCH_PLACE.begin}\nold\n${BENCH_PLACE.end}\nend\n`;
    const once = replaceFigures(document, benchMarkdown(RESULT, 'chart.svg'), BENCH_PLACE);
    expect(once).toMatch(/^# Title\n/);
    expect(once).toMatch(/!\[Speed in each cell\]\(chart\.svg\)/);
    expect(once).not.toContain('old');
    expect(once.endsWith(`${BENCH_PLACE.end}\nend\n`)).toBe(true);
    expect(replaceFigures(once, benchMarkdown(RESULT, 'chart.svg'), BENCH_PLACE)).toBe(once);
    expect(() => replaceFigures('# Title\n', '', BENCH_PLACE)).toThrow(/markers|two lines/);
  });

  test('the chart has a bar for each server but floors, as long as it is fast', () => {
    const svg = benchChart(RESULT);
    const bars = [...svg.matchAll(/<rect x="190" y="\d+" width="([\d.]+)"/g)].map((match) =>
      Number(match[1]),
    );
    expect(bars).toHaveLength(5);
    expect(bars[0]! / bars[1]!).toBeCloseTo(0.5, 2);
    expect(bars[3]! / bars[2]!).toBeCloseTo(0.25, 2);
    expect(svg).toContain('200 MiB/s');
    expect(svg.match(/<text/g)!.length).toBe(svg.match(/<\/text>/g)!.length);
  });
});
