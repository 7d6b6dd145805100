// A recovery run as tables, and as the part of a document that is about it. Pure.
import { formatBytes, formatDuration } from '../../base/size.ts';
import type { MapKeeping } from '../mirror-settings.ts';
import { machineLine, markdownTable, type Table } from '../report-table.ts';
import type { LagPercentiles, LagResult, OutageResult, RecoveryResult } from './result.ts';

/** All tables of a result. */
export function recoveryTables(result: RecoveryResult): Table[] {
  const tables = [outageTable(result), latencyTable(result), lagTable(result), mapTable(result)];
  return tables.filter(({ rows }) => rows.length > 0);
}

/** The machine and the settings, in two lines. */
export function recoveryHeading(result: RecoveryResult): string[] {
  const { machine, date, outageSeconds, sizeBytes, repagentVersion, granularityBytes } = result;
  return [
    machineLine(machine),
    `${date}; repagent ${repagentVersion}, agent and hub on one disk, volume of ${formatBytes(sizeBytes)} in chunks of ${formatBytes(granularityBytes)}; outages and lags of ${outageSeconds} s; disk and replica equal after each`,
  ];
}

export function recoveryMarkdown(result: RecoveryResult): string {
  return [
    ...recoveryHeading(result),
    ...recoveryTables(result).map((table) => markdownTable(table).trimEnd()),
  ].join('\n\n');
}

function outageTable({ outages }: RecoveryResult): Table {
  return {
    title: 'After an outage of the hub',
    head: [
      ...['load', 'missed by the hub', 'in chunks', 'read again', 'per chunk', 'per byte'],
      ...['told after', 'protected after'],
    ],
    rows: outages.map((one) => [
      one.id.replace('outage-', ''),
      formatBytes(one.missed.writtenBytes),
      formatBytes(one.missed.chunkBytes),
      formatBytes(one.readBytes),
      factor(one.readPerChunk),
      factor(one.readPerWritten),
      formatDuration(one.attachedAfterMs),
      formatDuration(one.protectedAfterMs),
    ]),
  };
}

function latencyTable({ outages }: RecoveryResult): Table {
  const text = ({ latency }: OutageResult): string[] =>
    [latency.before, latency.during, latency.recovering].map(({ p50Us, p99Us, maxUs }) =>
      [p50Us, p99Us, maxUs].map((us) => (us === undefined ? '-' : (us / 1000).toFixed(2))).join(' / '),
    );
  return {
    title: "The guest's writes meanwhile: latency p50 / p99 / max, ms",
    head: ['load', 'before', 'without the hub', 'until protected'],
    rows: outages.map((one) => [one.id.replace('outage-', ''), ...text(one)]),
  };
}

function lagTable({ lags }: RecoveryResult): Table {
  return {
    title: 'How far behind (RPO), ms',
    head: [
      ...['load', 'writes/s', 'MiB/s', 'at a moment: p50', 'p99', 'max'],
      ...['worst of a second: p50', 'p99', 'max', 'protected'],
    ],
    rows: lags.map((one: LagResult) => [
      one.id.replace('lag-', ''),
      String(Math.round(one.iops)),
      (one.bytesPerSecond / 2 ** 20).toFixed(1),
      ...percentileTexts(one.sampled),
      ...(one.worstOfSecond ? percentileTexts(one.worstOfSecond) : ['', '', '']),
      percent(one.protectedShare),
    ]),
  };
}

function mapTable({ maps, rounds, roundSeconds }: RecoveryResult): Table {
  const names: Record<MapKeeping, string> = {
    memory: 'in memory',
    file: 'in a file',
    durable: 'durable first',
  };
  return {
    title: `What a kept dirty map costs (${rounds} interleaved rounds of ${roundSeconds} s, image on tmpfs)`,
    head: [
      'load',
      'chunk',
      'map',
      'writes/s',
      'times slower',
      "agent's CPU, us",
      'p50 / p99, us',
      'new bits',
      'syncs',
    ],
    rows: maps.flatMap(({ cell, id, keepings }) =>
      keepings.map((one) => [
        id.replace('map-', '').replace(/-\d+[km]$/, ''),
        formatBytes(cell.chunkBytes),
        names[one.keeping],
        `${(one.iops / 1000).toFixed(1)}k ±${Math.round(one.spread * 50)}%`,
        factor(keepings[0]!.iops / one.iops),
        one.agentCpuPerMillion.toFixed(1),
        [one.p50Us, one.p99Us].map((us) => (us === undefined ? '-' : us.toFixed(0))).join(' / '),
        percent(one.newBitShare),
        percent(one.syncsPerWrite),
      ]),
    ),
  };
}

function percent(share: number): string {
  return `${Number((share * 100).toFixed(1))}%`;
}

function percentileTexts({ p50Ms, p99Ms, maxMs }: LagPercentiles): string[] {
  return [p50Ms, p99Ms, maxMs].map((ms) => (ms === null ? 'unknown' : String(ms)));
}

function factor(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}
