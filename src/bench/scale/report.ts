// A scale run as tables, and as the part of a document that is about it. Pure.
import { formatBytes, formatDuration } from '../../base/size.ts';
import { machineLine, markdownTable, type Table } from '../report-table.ts';
import type { ScaleFigures, ScaleResult } from './figures.ts';

/** The machine and the settings, in two lines. */
export function scaleHeading({ machine, date, repagentVersion, seconds }: ScaleResult): string[] {
  return [
    machineLine(machine),
    `${date}; repagent ${repagentVersion}, sparse images and replicas on tmpfs; ${seconds} s of load`,
  ];
}

export function scaleTables({ figures }: ScaleResult): Table[] {
  const volumes = figures.filter(({ cell }) => cell.agents === 1);
  const fleets = figures.filter(({ cell }) => cell.agents > 1);
  return [
    ...(volumes.length === 0 ? [] : [volumesTable(volumes), loadTable(volumes)]),
    ...(fleets.length === 0 ? [] : [fleetTable(fleets)]),
  ];
}

function volumesTable(figures: readonly ScaleFigures[]): Table {
  return {
    title: 'Many volumes of one agent, and a huge one: until everything is protected, and at rest then',
    head: [
      ...['cell', 'volumes', 'of', 'started after', 'protected after', "agent's memory", "hub's memory"],
      ...["agent's CPU", "hub's CPU"],
    ],
    rows: figures.map((one) => [
      ...[one.cell.id, String(one.cell.volumes), formatBytes(one.cell.sizeBytes)],
      ...untilProtected(one),
      ...[percent(one.agentRestShare), percent(one.hubRestShare)],
    ]),
  };
}

function loadTable(figures: readonly ScaleFigures[]): Table {
  return {
    title: 'Under load: single 4 KiB writes to some, the others idle',
    head: ['cell', 'busy', 'writes/s, all', 'p50 / p99, us', "agent's CPU", "hub's CPU"],
    rows: figures.map((one) => [
      ...[one.cell.id, `${one.cell.busy} of ${one.cell.volumes}`, one.iops.toFixed(0), latency(one)],
      ...[percent(one.agentLoadShare), percent(one.hubLoadShare)],
    ]),
  };
}

function fleetTable(figures: readonly ScaleFigures[]): Table {
  return {
    title: 'Many agents at one hub',
    head: [
      ...[
        'agents',
        'volumes of',
        'connecting after',
        'protected after',
        'memory of all agents',
        "hub's memory",
      ],
      ...["hub's CPU at rest", 'writes/s, all', "hub's CPU", 'acknowledged after, p50 / p99, us'],
    ],
    rows: figures.map((one) => [
      ...[String(one.cell.agents), formatBytes(one.cell.sizeBytes), ...untilProtected(one)],
      ...[percent(one.hubRestShare), one.iops.toFixed(0), percent(one.hubLoadShare), latency(one)],
    ]),
  };
}

function untilProtected(one: ScaleFigures): string[] {
  return [
    ...[formatDuration(one.startedAfterMs), formatDuration(one.protectedAfterMs)],
    ...[formatBytes(one.agentBytes), formatBytes(one.hubBytes)],
  ];
}

function latency({ p50Us, p99Us }: ScaleFigures): string {
  return [p50Us, p99Us].map((us) => (us === undefined ? '-' : us.toFixed(0))).join(' / ');
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)}%`;
}

export function scaleMarkdown(result: ScaleResult): string {
  return [
    ...scaleHeading(result),
    ...scaleTables(result).map((table) => markdownTable(table).trimEnd()),
  ].join('\n\n');
}
