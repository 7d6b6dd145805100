// The status of a process as a table that fits the terminal, and as one line per volume for logs and pipes.
import type { LinkStatus, ProcessStatus, VolumeState, VolumeStatus } from '../../control/status.ts';
import {
  bytesText,
  countText,
  durationText,
  failoverText,
  lagFiguresText,
  percentText,
  resyncReadsText,
  resyncText,
  syncPercent,
  syncRateText,
  timeLeftText,
  trafficText,
  verificationText,
} from './figures.ts';
import { bar, type Color, type Look, paint, printable, shorten } from './terminal.ts';

interface Column {
  readonly title: string;
  /** Columns with the lowest value are left out first when the terminal is narrow; those without one never are. */
  readonly keep?: number;
  readonly right?: boolean;
  readonly cell: (volume: VolumeStatus, look: Look) => string;
}

const BAR_WIDTH = 12;
const MIN_NAME_COLUMNS = 6;
const GAP = '  ';

const STATE_COLORS: Readonly<Record<VolumeState, Color>> = {
  unprotected: 'dim',
  'initial-sync': 'yellow',
  resync: 'yellow',
  converging: 'yellow',
  protected: 'green',
  degraded: 'red',
  failed: 'red',
};

const COLUMNS: readonly Column[] = [
  { title: 'VOLUME', cell: (volume) => printable(volume.name) },
  { title: 'STATE', cell: stateText },
  { title: 'SYNC', keep: 9, cell: syncCell },
  { title: 'RATE', keep: 3, right: true, cell: syncRateText },
  { title: 'LEFT', keep: 5, right: true, cell: timeLeftText },
  { title: 'DIRTY', keep: 8, right: true, cell: (volume) => bytesText(volume.dirtyBytes) },
  { title: 'QUEUED', keep: 4, right: true, cell: (volume) => bytesText(volume.queuedBytes) },
  { title: 'SENT', keep: 2, right: true, cell: (volume) => countText(volume.sequence) },
  { title: 'ACKED', keep: 1, right: true, cell: (volume) => countText(volume.ackedSequence) },
  { title: 'LAG', keep: 7, right: true, cell: (volume) => durationText(volume.lagMs) },
  {
    title: 'p50/p99/max IN 1m',
    keep: -1,
    right: true,
    cell: ({ lagHistory }) => lagFiguresText(lagHistory?.lastMinute),
  },
  { title: 'IN 1h', keep: -2, right: true, cell: ({ lagHistory }) => lagFiguresText(lagHistory?.lastHour) },
  { title: 'SIZE', keep: 0, right: true, cell: (volume) => bytesText(volume.sizeBytes) },
];

/** A hub names the machine of each volume, and can't know what waits at it. */
const HUB_COLUMNS: readonly Column[] = [
  COLUMNS[0]!,
  { title: 'VM', keep: 10, cell: (volume) => printable(volume.vmName) || '-' },
  ...COLUMNS.slice(1).filter(({ title }) => title !== 'QUEUED'),
];

/** The lines of the table; none is longer than the terminal is wide. */
export function statusTable(status: ProcessStatus, look: Look): string[] {
  const lines = headLines(status).map((line) => shorten(line, look.columns, look));
  const volumes = status.volumes.flatMap(rowsOf);
  if (volumes.length === 0) return [...lines, 'no volumes yet'];
  const columns = fitColumns({ ...status, volumes }, look);
  const widths = columns.map((column) => widthOf(column, volumes, look));
  const overflow = sum(widths) + GAP.length * (widths.length - 1) - look.columns;
  if (overflow > 0) widths[0] = Math.max(MIN_NAME_COLUMNS, widths[0]! - overflow);
  const title = columns.map((column, index) =>
    pad(column.title, widths[index]!, column.right ?? false, look),
  );
  lines.push(paint(shorten(title.join(GAP).trimEnd(), look.columns, look), 'dim', look));
  for (const volume of volumes) {
    const cells = columns.map((column, index) => {
      const text = pad(column.cell(volume, look), widths[index]!, column.right ?? false, look);
      return column.title === 'STATE' ? paint(text, STATE_COLORS[volume.state] ?? 'dim', look) : text;
    });
    lines.push(cells.join(GAP).trimEnd());
    lines.push(...noteLines(volume, look));
  }
  return lines;
}

/** What became of a volume, below its row. */
function noteLines(volume: VolumeStatus, look: Look): string[] {
  const { resyncs, verification, firstError, lastError } = volume;
  const resync = resyncs?.[0];
  const notes: Array<[text: string, color: Color]> = [];
  const failover = failoverText(volume.failoverTo);
  if (failover !== undefined) {
    notes.push([`a failover now gives: ${failover}`, volume.failoverTo ? 'dim' : 'red']);
  }
  if (resync) {
    const title = resync.outcome === 'running' ? 'resync' : 'last resync';
    notes.push([`${title}: ${resyncText(resync)}`, 'dim']);
  }
  if (verification) {
    const color = verification.outcome === 'equal' ? 'dim' : 'red';
    notes.push([`last verification: ${verificationText(verification)}`, color]);
  }
  if (firstError && firstError.text !== lastError) {
    notes.push([`first error: ${firstError.text}, ${firstError.at}`, 'dim']);
  }
  if (lastError) notes.push([`last error: ${lastError}`, 'red']);
  return notes.map(([text, color]) =>
    paint(shorten(`  ${printable(text)}`, look.columns, look), color, look),
  );
}

/** A volume, and below it the same at each hub where there are several. */
function rowsOf(volume: VolumeStatus): VolumeStatus[] {
  const { hubs = [], vmName, sizeBytes } = volume;
  if (hubs.length < 2) return [volume];
  // The hubs' own lines say what went wrong and was read again where.
  return [
    { ...volume, lastError: null, firstError: null, resyncs: [] },
    ...hubs.map((at) => ({ name: `  at ${at.hub}`, vmName, sizeBytes, ...at })),
  ];
}

/** One line that stands for itself, for `--watch` into a file. */
export function statusLine(volume: VolumeStatus): string {
  const percent = syncPercent(volume);
  const { hubs = [] } = volume;
  const fields = [
    volume.vmName === '' ? printable(volume.name) : `${printable(volume.vmName)}/${printable(volume.name)}`,
    `state=${printable(volume.state)}`,
    ...(volume.paused ? [`paused=${durationText(volume.paused.forMs)}`] : []),
    ...(volume.readOnly ? ['read-only'] : []),
    ...(volume.throttle?.delayMs ? [`throttled=${durationText(volume.throttle.delayMs)}`] : []),
    `sync=${percent === undefined ? '-' : percentText(percent)}`,
    `rate=${syncRateText(volume)}`,
    `left=${timeLeftText(volume)}`,
    `dirty=${bytesText(volume.dirtyBytes)}`,
    `queued=${bytesText(volume.queuedBytes)}`,
    `sent=${countText(volume.sequence)}`,
    `acked=${countText(volume.ackedSequence)}`,
    `lag=${durationText(volume.lagMs)}`,
    ...(volume.lagHistory ? [`lag1m=${lagFiguresText(volume.lagHistory.lastMinute)}`] : []),
    ...(volume.failoverTo === undefined
      ? []
      : [`failover=${failoverText(volume.failoverTo)!.replaceAll(' ', '_')}`]),
    ...(hubs.length > 1 ? [`hubs=${hubs.map((at) => `${printable(at.hub)}:${at.state}`).join(',')}`] : []),
  ];
  const figures = fields.map((field) => field.replace(/(\d) (\w)/g, '$1$2')).join(' ');
  return volume.lastError ? `${figures} error=${JSON.stringify(printable(volume.lastError))}` : figures;
}

function headLines(status: ProcessStatus): string[] {
  const where = status.listening.map(printable).join(' ') || 'nothing yet';
  const lines = [`${status.role} ${status.pid} (repagent ${printable(status.version)}), listening ${where}`];
  const links = status.links ?? (status.link ? [status.link] : []);
  for (const link of links) {
    const traffic = link.traffic ? trafficText(link.traffic, link.compression) : '';
    lines.push(`hub ${printable(linkName(link))}: ${printable(link.state)}${traffic}`);
    if (link.lastError) lines.push(`  last error: ${printable(link.lastError)}`);
  }
  for (const { pid, state, volumes, restarts } of status.workers ?? []) {
    const what = `${state}${restarts > 0 ? `, started again ${restarts}x` : ''}`;
    lines.push(`worker ${pid ?? '-'}: ${what}: ${volumes.map(printable).join(', ')}`);
  }
  const reads = status.resyncReads && resyncReadsText(status.resyncReads);
  if (reads !== undefined) lines.push(reads);
  if (links.length === 0 && status.role === 'agent') lines.push('no hub: nothing is replicated');
  return lines;
}

/** A hub as people know it. */
export function linkName({ name, hub }: LinkStatus): string {
  return name === undefined || name === hub ? hub : `${name} (${hub})`;
}

function fitColumns(status: ProcessStatus, look: Look): Column[] {
  const columns = status.role === 'hub' ? [...HUB_COLUMNS] : [...COLUMNS];
  const width = (): number =>
    sum(columns.map((column) => widthOf(column, status.volumes, look))) + GAP.length * (columns.length - 1);
  while (width() > look.columns) {
    const least = columns
      .filter((column) => column.keep !== undefined)
      .reduce<Column | undefined>(
        (low, one) => (low === undefined || one.keep! < low.keep! ? one : low),
        undefined,
      );
    if (!least) break;
    columns.splice(columns.indexOf(least), 1);
  }
  return columns;
}

function widthOf(column: Column, volumes: readonly VolumeStatus[], look: Look): number {
  const cells = volumes.map((volume) => [...column.cell(volume, look)].length);
  return Math.max(column.title.length, ...cells);
}

function stateText(volume: VolumeStatus): string {
  const access = volume.paused ? ', paused' : '';
  const delayMs = volume.throttle?.delayMs ?? 0;
  const throttled = delayMs > 0 ? `, throttled ${durationText(delayMs)}` : '';
  return `${printable(volume.state)}${throttled}${access}${volume.readOnly ? ', read-only' : ''}`;
}

function syncCell(volume: VolumeStatus, look: Look): string {
  const percent = syncPercent(volume);
  if (percent === undefined) return '-';
  return `${bar(percent, BAR_WIDTH, look)} ${percentText(percent).padStart(4)}`;
}

function pad(text: string, width: number, right: boolean, look: Look): string {
  const short = shorten(text, width, look);
  const blank = ' '.repeat(width - [...short].length);
  return right ? blank + short : short + blank;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
