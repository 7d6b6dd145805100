// The body of `repagent bench`: chooses cells and servers, shows progress, prints or stores what was found.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../base/errors.ts';
import { formatDuration } from '../../base/size.ts';
import { runBench } from '../../bench/bench.ts';
import { type Cell, cellId, FULL_CELLS, QUICK_CELLS, selectCells, TLS_CELLS } from '../../bench/matrix.ts';
import { bedSeconds, planBeds } from '../../bench/plan.ts';
import { benchChart } from '../../bench/report-chart.ts';
import { benchMarkdown, replaceFigures } from '../../bench/report-document.ts';
import { benchHeading, benchTables, textTable } from '../../bench/report-table.ts';
import type { BenchResult } from '../../bench/result.ts';
import type { ServerKind } from '../../bench/server.ts';
import { selectServers } from '../../bench/servers/index.ts';
import { packageVersion } from '../version.ts';
import { watchSignals } from './signals.ts';

const CHART_NAME = 'performance.svg';
const DOCUMENT_NAME = 'PERFORMANCE.md';

export interface BenchConfig {
  readonly full: boolean;
  readonly tls: boolean;
  readonly cells: readonly string[];
  readonly peers: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  readonly diskFolder: string | undefined;
  readonly json: boolean;
  readonly report: string | undefined;
  readonly list: boolean;
}

export async function runBenchCommand(config: BenchConfig): Promise<number> {
  const preset = [...(config.full ? FULL_CELLS : QUICK_CELLS), ...(config.tls ? TLS_CELLS : [])];
  const cells = selectCells(preset, config.cells);
  const servers = selectServers(config.peers);
  if (config.list) {
    printPlan(cells, servers, config);
    return 0;
  }
  // Before anything is measured: afterwards would be a pity.
  if (config.report !== undefined) replaceFigures(readDocument(config.report), '');
  const signals = watchSignals();
  try {
    const result = await runBench({
      ...{ cells, servers, rounds: config.rounds, seconds: config.seconds, sizeBytes: config.sizeBytes },
      diskFolder: config.diskFolder,
      program: fileURLToPath(new URL('../main.js', import.meta.url)),
      repagentVersion: packageVersion(),
      aborted: signals.aborted,
      onProgress: showProgress,
      onLeftOut: ({ server, where, why }) => say(`LEFT OUT: ${server} from ${where}: ${why}`),
    });
    clearProgress();
    if (config.report !== undefined) writeReport(config.report, result);
    process.stdout.write(config.json ? `${JSON.stringify(result, null, 2)}\n` : `${resultText(result)}\n`);
    return 0;
  } finally {
    clearProgress();
    signals.dispose();
  }
}

function printPlan(cells: readonly Cell[], servers: readonly ServerKind[], config: BenchConfig): void {
  const beds = planBeds(cells, servers);
  const seconds = beds.reduce((sum, bed) => sum + bedSeconds(bed, config.rounds, config.seconds), 0);
  const lines = [
    ...cells.map((cell) => cellId(cell)),
    '',
    ...servers.map(({ name, role, describe }) => `${name} (${role}): ${describe}`),
    '',
    `${cells.length} cells in about ${formatDuration(seconds * 1000)}`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

function resultText(result: BenchResult): string {
  return [...benchHeading(result), '', ...benchTables(result).map((table) => textTable(table))]
    .join('\n')
    .trimEnd();
}

function readDocument(folder: string): string {
  const path = join(folder, DOCUMENT_NAME);
  if (!existsSync(path)) throw new UsageError(`--report: there is no ${path}`);
  return readFileSync(path, 'utf8');
}

function writeReport(folder: string, result: BenchResult): void {
  const document = replaceFigures(readDocument(folder), benchMarkdown(result, CHART_NAME));
  writeFileSync(join(folder, CHART_NAME), benchChart(result));
  writeFileSync(join(folder, DOCUMENT_NAME), document);
  say(`written: ${join(folder, DOCUMENT_NAME)} and ${CHART_NAME}`);
}

let lastCell = '';

/** On a terminal one line that is drawn over; elsewhere a line for each cell. */
function showProgress(what: string, secondsLeft: number): void {
  const text = `${what}; ${formatDuration(secondsLeft * 1000)} left`;
  if (process.stderr.isTTY) {
    process.stderr.write(`\r${text}\x1b[K`);
    return;
  }
  const cell = what.split(':')[0]!;
  if (cell !== lastCell) process.stderr.write(`${text}\n`);
  lastCell = cell;
}

function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
}

function say(text: string): void {
  clearProgress();
  process.stderr.write(`${text}\n`);
}
