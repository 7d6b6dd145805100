// A scale run as a table, and as the part of a document that is about it. Pure.
import { formatBytes, formatDuration } from '../../base/size.ts';
import { machineLine, markdownTable, type Table } from '../report-table.ts';
import type { ScaleResult } from './run.ts';

/** The machine and the settings, in two lines. */
export function scaleHeading({ machine, date, repagentVersion, seconds }: ScaleResult): string[] {
  return [
    machineLine(machine),
    `${date}; repagent ${repagentVersion}, sparse images and replicas on tmpfs; one volume written for ${seconds} s`,
  ];
}

export function scaleTable({ figures }: ScaleResult): Table {
  return {
    title: 'Many volumes, and huge ones',
    head: [
      ...['volumes', 'of', 'started after', 'protected after', "agent's memory", "hub's memory"],
      ...['4 KiB writes/s to one', 'p50 / p99, us'],
    ],
    rows: figures.map((one) => [
      String(one.cell.volumes),
      formatBytes(one.cell.sizeBytes),
      formatDuration(one.startedAfterMs),
      formatDuration(one.protectedAfterMs),
      formatBytes(one.agentBytes),
      formatBytes(one.hubBytes),
      `${(one.iops / 1000).toFixed(1)}k`,
      [one.p50Us, one.p99Us].map((us) => (us === undefined ? '-' : us.toFixed(0))).join(' / '),
    ]),
  };
}

export function scaleMarkdown(result: ScaleResult): string {
  return [...scaleHeading(result), markdownTable(scaleTable(result)).trimEnd()].join('\n\n');
}
