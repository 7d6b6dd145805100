// The figures as tables, for a terminal and for Markdown: the same rows, drawn differently. Pure.
import { formatBytes } from '../base/size.ts';
import type { Machine } from './machine.ts';
import { cellId, plainCell } from './matrix.ts';
import { type BenchResult, type CellFigures, type CellResult, ratioTo } from './result.ts';

export interface Table {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** From this size on a cell is about bytes per second, below it about requests per second. */
const LARGE_BLOCK_BYTES = 64 * 1024;

/** All tables of a result, the most important first. */
export function benchTables(result: BenchResult): Table[] {
  const mirrored = result.cells.filter(({ cell }) => cell.mirror);
  const plain = result.cells.filter(({ cell }) => !cell.mirror);
  return [
    summaryTable(result),
    speedTable('Speed, and how many times as fast repagent is', plain, result),
    speedTable('With mirroring', mirrored, result),
    costTable(result),
    cpuTable(result),
    memoryTable(result),
    leftOutTable(result),
  ].filter((table) => table.rows.length > 0);
}

function summaryTable(result: BenchResult): Table {
  const floors = new Set(result.servers.filter(({ role }) => role === 'floor').map(({ name }) => name));
  return {
    title: 'repagent against',
    head: ['server', 'cells', 'geometric mean', 'worst cell', '', 'slower by more than the spread in'],
    rows: result.summary.map(({ server, mirror, cells, geometricMean, worst, slower }) => [
      `${server}${floors.has(server) ? ' (floor)' : ''}${mirror ? ' (mirroring)' : ''}`,
      String(cells),
      factor(geometricMean),
      factor(worst.ratio),
      worst.id,
      // Than a floor everything is slower, and one round has no spread.
      floors.has(server) || result.rounds < 2 ? '' : slower.map(({ id }) => id).join(', ') || 'none',
    ]),
  };
}

function speedTable(title: string, cells: readonly CellResult[], result: BenchResult): Table {
  const names = result.servers
    .map(({ name }) => name)
    .filter((name) => cells.some((one) => figuresOf(one, name)));
  return {
    title,
    head: ['cell', ...names],
    rows: cells.map((cell) => [
      cell.id,
      ...names.map((name) => {
        const figures = figuresOf(cell, name);
        if (!figures) return '';
        const ratio = ratioTo(cell, name);
        const speed = speedText(cell, figures) + spreadText(figures);
        return name === 'repagent' || ratio === undefined ? speed : `${speed} (${factor(ratio)})`;
      }),
    ]),
  };
}

/** What TLS, filters and mirroring make of a load that was measured without them too. Not in the same minute. */
function costTable(result: BenchResult): Table {
  const pairs = result.cells.flatMap((cell) => {
    const plain = plainCell(cell.cell);
    const without = plain && result.cells.find(({ id }) => id === cellId(plain));
    return without ? [{ cell, without }] : [];
  });
  const slower = ({ cell, without }: (typeof pairs)[number], name: string): string => {
    const [figures, base] = [figuresOf(cell, name), figuresOf(without, name)];
    return figures && base ? factor(base.iops / figures.iops) : '';
  };
  const names = result.servers
    .filter(({ name, role }) => role !== 'floor' && pairs.some((pair) => slower(pair, name) !== ''))
    .map(({ name }) => name);
  return {
    title: 'How many times as slow as the same load without it',
    head: ['cell', ...names],
    rows: pairs.map((pair) => [pair.cell.id, ...names.map((name) => slower(pair, name))]),
  };
}

function cpuTable(result: BenchResult): Table {
  const names = result.servers.filter(({ role }) => role !== 'floor').map(({ name }) => name);
  return {
    title: 'CPU seconds, server + client: per GiB from 64 KiB blocks on, else per million requests',
    head: ['cell', ...names],
    rows: result.cells.map((cell) => [
      cell.id,
      ...names.map((name) => {
        const figures = figuresOf(cell, name);
        if (!figures) return '';
        const pair = isLarge(cell)
          ? [figures.serverCpuPerGib, figures.clientCpuPerGib]
          : [figures.serverCpuPerMillionIos, figures.clientCpuPerMillionIos];
        return pair.map((seconds) => seconds.toFixed(isLarge(cell) ? 2 : 1)).join(' + ');
      }),
    ]),
  };
}

function memoryTable(result: BenchResult): Table {
  return {
    title: 'Memory (resident)',
    head: ['server', 'at rest', 'peak under load', 'per idle connection'],
    rows: result.memory.map(({ server, restBytes, peakBytes, idleConnectionBytes }) => [
      server,
      formatBytes(restBytes),
      formatBytes(peakBytes),
      idleConnectionBytes === undefined ? '' : formatBytes(idleConnectionBytes),
    ]),
  };
}

function leftOutTable(result: BenchResult): Table {
  return {
    title: 'LEFT OUT',
    head: ['server', 'where', 'why'],
    rows: result.leftOut.map(({ server, where, why }) => [server, where, why.replace(/\s+/g, ' ')]),
  };
}

/** The machine and the settings, in two lines. */
export function benchHeading(result: BenchResult): string[] {
  const { machine, servers } = result;
  const versions = servers
    .filter(({ version }) => version !== '')
    .map(({ name, version }) => `${name} ${version}`);
  return [
    machineLine(machine),
    `${result.date}; ${result.rounds} interleaved rounds of ${result.seconds} s, medians; image of ${formatBytes(result.sizeBytes)}; ${versions.join(', ')}`,
  ];
}

/** What it was measured on. */
export function machineLine({
  processor,
  processors,
  memoryBytes,
  system,
  node,
  loadBefore,
}: Machine): string {
  return `${processor}, ${processors} processors, ${formatBytes(memoryBytes)}, ${system}, Node ${node}; load before: ${loadBefore.toFixed(2)}`;
}

/** Columns aligned with spaces. */
export function textTable({ title, head, rows }: Table): string {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row
      .map((text, i) => text.padEnd(widths[i]!))
      .join('  ')
      .trimEnd();
  return `${title}\n${[head, ...rows].map((row) => `  ${line(row)}`).join('\n')}\n`;
}

export function markdownTable({ title, head, rows }: Table): string {
  const line = (row: readonly string[]): string =>
    `| ${row.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;
  return `**${title}**\n\n${[line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')}\n`;
}

export function isLarge({ cell }: CellResult): boolean {
  return cell.blockBytes >= LARGE_BLOCK_BYTES;
}

function figuresOf(cell: CellResult, server: string): CellFigures | undefined {
  return cell.servers.find((one) => one.server === server);
}

function speedText(cell: CellResult, figures: CellFigures): string {
  if (isLarge(cell)) return `${Math.round(figures.bytesPerSecond / 2 ** 20)} MiB/s`;
  return `${(figures.iops / 1000).toFixed(1)}k`;
}

/** Half of what lies between the slowest round and the fastest; nothing for a single round. */
export function spreadText({ spread, rounds }: CellFigures): string {
  return rounds.length < 2 ? '' : ` ±${Math.round(spread * 50)}%`;
}

function factor(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}
