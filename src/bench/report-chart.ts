// The figures as a chart: for each cell a group of bars, one per server, as long as the server is fast in relation to
// the fastest peer or ours. SVG by hand, without scripts or outside fonts. Pure.
import { isLarge, spreadText } from './report-table.ts';
import type { BenchResult, CellResult } from './result.ts';

const COLORS: Readonly<Record<string, string>> = {
  repagent: '#1565c0',
  'one-process': '#64b5f6',
  nbdkit: '#ef6c00',
  'qemu-nbd': '#7b1fa2',
  'nbd-server': '#00838f',
  'qemu-background': '#ad1457',
  'qemu-blocking': '#6d4c41',
};
const OTHER_COLOR = '#90a4ae';

const WIDTH = 900;
const LABEL_WIDTH = 190;
const BAR_HEIGHT = 13;
const GROUP_GAP = 12;
const TOP = 56;
/** Seven servers fit. */
const LEGEND_STEP = 125;
const BAR_ROOM = WIDTH - LABEL_WIDTH - 130;

/** Floors would make bars short that are compared with each other: the chart shows servers only. */
export function benchChart(result: BenchResult): string {
  const names = result.servers.filter(({ role }) => role !== 'floor').map(({ name }) => name);
  const parts: string[] = [text(12, 22, 'Speed in each cell; the fastest server fills the row', 'title')];
  names.forEach((name, i) => {
    const x = 12 + i * LEGEND_STEP;
    parts.push(rectangle(x, 32, 10, 10, colorOf(name)), text(x + 15, 41, name));
  });
  let y = TOP;
  for (const cell of result.cells) {
    const shown = cell.servers.filter(({ server }) => names.includes(server));
    const best = Math.max(...shown.map(({ iops }) => iops));
    parts.push(text(12, y + (shown.length * BAR_HEIGHT) / 2 + 4, cell.id));
    for (const figures of shown) {
      const { server, iops } = figures;
      const width = best > 0 ? Math.max(1, (iops / best) * BAR_ROOM) : 1;
      parts.push(
        rectangle(LABEL_WIDTH, y + 1, width, BAR_HEIGHT - 2, colorOf(server)),
        text(LABEL_WIDTH + width + 6, y + BAR_HEIGHT - 3, speed(cell, iops) + spreadText(figures), 'small'),
      );
      y += BAR_HEIGHT;
    }
    y += GROUP_GAP;
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img">`,
    '<style>text{font:12px sans-serif;fill:#263238}.title{font-size:15px;font-weight:bold}.small{font-size:10px}</style>',
    `<rect width="${WIDTH}" height="${y}" fill="#ffffff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function speed(result: CellResult, iops: number): string {
  const mib = (iops * result.cell.blockBytes) / 2 ** 20;
  return isLarge(result) ? `${Math.round(mib)} MiB/s` : `${(iops / 1000).toFixed(1)}k IOPS`;
}

function colorOf(server: string): string {
  return COLORS[server] ?? OTHER_COLOR;
}

function rectangle(x: number, y: number, width: number, height: number, color: string): string {
  return `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="${height}" fill="${color}"/>`;
}

function text(x: number, y: number, content: string, style?: string): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${style === undefined ? '' : ` class="${style}"`}>${escaped}</text>`;
}
