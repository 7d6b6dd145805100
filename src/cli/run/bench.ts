// The body of `repagent bench`: chooses cells and servers, shows progress, prints or stores what was found.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { formatDuration } from '../../base/size.ts';
import { runBench } from '../../bench/bench.ts';
import { type Cell, cellId, FULL_CELLS, QUICK_CELLS, selectCells, TLS_CELLS } from '../../bench/matrix.ts';
import { bedSeconds, planBeds } from '../../bench/plan.ts';
import { benchChart } from '../../bench/report-chart.ts';
import { BENCH_PLACE, benchMarkdown } from '../../bench/report-document.ts';
import { benchHeading, benchTables, textTable } from '../../bench/report-table.ts';
import type { BenchResult } from '../../bench/result.ts';
import type { ServerKind } from '../../bench/server.ts';
import { selectServers } from '../../bench/servers/index.ts';
import { packageVersion } from '../version.ts';
import { clearProgress, ownProgramPath, ReportDocument, say, showProgress } from './bench-output.ts';
import { watchSignals } from './signals.ts';

const CHART_NAME = 'performance.svg';

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
  const document = config.report === undefined ? undefined : new ReportDocument(config.report, BENCH_PLACE);
  const signals = watchSignals();
  try {
    const result = await runBench({
      ...{ cells, servers, rounds: config.rounds, seconds: config.seconds, sizeBytes: config.sizeBytes },
      diskFolder: config.diskFolder,
      program: ownProgramPath(),
      repagentVersion: packageVersion(),
      aborted: signals.aborted,
      onProgress: showProgress,
      onLeftOut: ({ server, where, why }) => say(`LEFT OUT: ${server} from ${where}: ${why}`),
    });
    clearProgress();
    if (document) {
      writeFileSync(join(document.folder, CHART_NAME), benchChart(result));
      document.write(benchMarkdown(result, CHART_NAME));
      say(`written: ${document.path} and ${CHART_NAME}`);
    }
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
