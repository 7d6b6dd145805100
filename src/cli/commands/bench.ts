// `repagent bench`: its options. The body is in run/bench.ts.
import { UsageError } from '../../base/errors.ts';
import { parseSize } from '../../base/size.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseCount } from '../parse-values.ts';

const MIN_SIZE_BYTES = 16 * 1024 * 1024;
const MAX_SECONDS = 3600;

const BENCH_OPTIONS = {
  quick: { type: 'flag', describe: 'the most telling cells, in about five minutes (the default)' },
  full: { type: 'flag', describe: 'every cell of the matrix; takes hours' },
  tls: { type: 'flag', describe: 'the quick loads through TLS too' },
  cell: {
    type: 'text',
    describe: 'measure this cell, such as 4k-randread-qd32; * stands for anything',
    repeatable: true,
    fallback: 'the preset',
  },
  peers: {
    type: 'text',
    describe: 'compare with these only, by commas; --list shows them',
    fallback: 'all',
  },
  rounds: { type: 'text', describe: 'interleaved rounds of each cell', fallback: '4' },
  seconds: { type: 'text', describe: 'seconds of load in each round', fallback: '1.2, or 3 with --full' },
  size: { type: 'text', describe: 'size of the images', fallback: '256M' },
  disk: { type: 'text', describe: 'a folder on the disk for the cells with -disk', fallback: '/var/tmp' },
  json: { type: 'flag', describe: 'print one JSON object' },
  report: {
    type: 'text',
    describe:
      'a folder: write table and chart into PERFORMANCE.md, between its markers, and performance.svg there',
  },
  list: {
    type: 'flag',
    describe: 'print the cells and servers that would be measured, and the time it takes',
  },
} as const satisfies OptionTable;

export const benchCommand = defineCommand({
  name: 'bench',
  describe: 'Measure speed, CPU time and memory side by side with other NBD servers, by fio on this machine',
  options: BENCH_OPTIONS,
  examples: [
    ['bench', 'the quick cells against every server that is installed'],
    ['bench --cell 4k-*-qd1 --peers nbdkit --rounds 8', 'one thing closely'],
    ['bench --json > figures.json', 'for a program to read'],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.quick && raw.full) throw new UsageError('--quick and --full: give one of them');
    const full = raw.full ?? false;
    const sizeBytes = parseSize(raw.size ?? '256M', '--size');
    if (sizeBytes < MIN_SIZE_BYTES || sizeBytes % MIN_SIZE_BYTES !== 0) {
      throw new UsageError('--size: images have a multiple of 16M, such as 256M');
    }
    const { runBenchCommand } = await import('../run/bench.ts');
    return runBenchCommand({
      ...{ full, tls: raw.tls ?? false, cells: raw.cell ?? [], sizeBytes },
      peers: (raw.peers ?? '').split(',').filter((name) => name !== ''),
      rounds: parseCount(raw.rounds ?? '4', '--rounds', 1000),
      seconds: parseSeconds(raw.seconds ?? (full ? '3' : '1.2')),
      ...{ diskFolder: raw.disk, json: raw.json ?? false, report: raw.report, list: raw.list ?? false },
    });
  },
});

function parseSeconds(text: string): number {
  const seconds = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds >= 0.1 && seconds <= MAX_SECONDS)) {
    throw new UsageError(`--seconds: ${JSON.stringify(text)} is not a number from 0.1 to ${MAX_SECONDS}`);
  }
  return seconds;
}
