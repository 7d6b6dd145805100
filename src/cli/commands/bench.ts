// `repagent bench`: its options. The body is in run/bench.ts.
import { UsageError } from '../../base/errors.ts';
import { parseSize } from '../../base/size.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable, RawOptions } from '../option-table.ts';
import { parseCount } from '../parse-values.ts';

const MIN_SIZE_BYTES = 16 * 1024 * 1024;
const MAX_SECONDS = 3600;

const BENCH_OPTIONS = {
  quick: { type: 'flag', describe: 'the most telling cells, in about nine minutes (the default)' },
  full: { type: 'flag', describe: 'every cell of the matrix; takes hours' },
  tls: { type: 'flag', describe: 'all of the basic loads through TLS too' },
  recovery: {
    type: 'flag',
    describe: 'instead: what an outage of the hub costs, and how far behind a replica is; fourteen minutes',
  },
  outage: {
    type: 'text',
    describe: 'with --recovery: seconds for which the hub is away, and for which the lag is watched',
    fallback: '60',
  },
  codecs: {
    type: 'text',
    describe:
      'instead: what compressing this file, such as a disk image, gains and costs; for --hub-compress',
  },
  scale: {
    type: 'flag',
    describe:
      'instead: memory, CPU, time until protected and latency of many volumes, many agents, and a huge disk; three minutes',
  },
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
  rounds: { type: 'text', describe: 'interleaved rounds of each cell', fallback: '4, or 8 with --recovery' },
  seconds: {
    type: 'text',
    describe: 'seconds of load in each round',
    fallback: '1, or 3 with --full or --recovery',
  },
  size: { type: 'text', describe: 'size of the images', fallback: '256M, or 1G with --recovery' },
  disk: {
    type: 'text',
    describe: 'a folder on the disk for the cells with -disk, and for --recovery',
    fallback: '/var/tmp',
  },
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
    ['bench --codecs disk.img', 'which compression of the hub link pays off, for this data on this machine'],
    ['bench --recovery --outage 10', 'bytes read again after an outage, time until protected, lag'],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.codecs !== undefined) {
      const { runCodecsCommand } = await import('../run/bench-codecs.ts');
      return runCodecsCommand(raw.codecs, raw.json ?? false);
    }
    if (raw.scale) return runScale(raw);
    if (raw.recovery) return runRecovery(raw);
    if (raw.quick && raw.full) throw new UsageError('--quick and --full: give one of them');
    if (raw.outage !== undefined) throw new UsageError('--outage is about hubs that go away: add --recovery');
    const full = raw.full ?? false;
    const sizeBytes = parseImageSize(raw.size ?? '256M');
    const { runBenchCommand } = await import('../run/bench.ts');
    return runBenchCommand({
      ...{ full, tls: raw.tls ?? false, cells: raw.cell ?? [], sizeBytes },
      peers: (raw.peers ?? '').split(',').filter((name) => name !== ''),
      rounds: parseCount(raw.rounds ?? '4', '--rounds', 1000),
      seconds: parseSeconds(raw.seconds ?? (full ? '3' : '1'), '--seconds'),
      ...{ diskFolder: raw.disk, json: raw.json ?? false, report: raw.report, list: raw.list ?? false },
    });
  },
});

/** Options of the other kind of run mean nothing here. */
const NOT_WITH_RECOVERY = ['quick', 'full', 'tls', 'peers'] as const;

async function runRecovery(raw: RawOptions<typeof BENCH_OPTIONS>): Promise<number> {
  for (const name of NOT_WITH_RECOVERY) {
    if (raw[name] !== undefined) throw new UsageError(`--${name} has no meaning with --recovery`);
  }
  const outageSeconds = parseSeconds(raw.outage ?? '60', '--outage');
  const { runRecoveryCommand } = await import('../run/bench-recovery.ts');
  return runRecoveryCommand({
    rounds: parseCount(raw.rounds ?? '8', '--rounds', 1000),
    roundSeconds: parseSeconds(raw.seconds ?? '3', '--seconds'),
    ...{ cells: raw.cell ?? [], outageSeconds, sizeBytes: parseImageSize(raw.size ?? '1G') },
    ...{ diskFolder: raw.disk, json: raw.json ?? false, report: raw.report, list: raw.list ?? false },
  });
}

/** Options of the other kinds of run mean nothing here. */
const NOT_WITH_SCALE = [
  ...NOT_WITH_RECOVERY,
  ...(['recovery', 'outage', 'rounds', 'size', 'disk'] as const),
] as const;

async function runScale(raw: RawOptions<typeof BENCH_OPTIONS>): Promise<number> {
  for (const name of NOT_WITH_SCALE) {
    if (raw[name] !== undefined) throw new UsageError(`--${name} has no meaning with --scale`);
  }
  const seconds = parseSeconds(raw.seconds ?? '3', '--seconds');
  const { runScaleCommand } = await import('../run/bench-scale.ts');
  return runScaleCommand({
    ...{ cells: raw.cell ?? [], seconds, json: raw.json ?? false },
    ...{ report: raw.report, list: raw.list ?? false },
  });
}

function parseImageSize(text: string): number {
  const sizeBytes = parseSize(text, '--size');
  if (sizeBytes < MIN_SIZE_BYTES || sizeBytes % MIN_SIZE_BYTES !== 0) {
    throw new UsageError('--size: images have a multiple of 16M, such as 256M');
  }
  return sizeBytes;
}

function parseSeconds(text: string, option: string): number {
  const seconds = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds >= 0.1 && seconds <= MAX_SECONDS)) {
    throw new UsageError(`${option}: ${JSON.stringify(text)} is not a number from 0.1 to ${MAX_SECONDS}`);
  }
  return seconds;
}
