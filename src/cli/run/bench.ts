// The body of `repagent bench`: chooses cells and servers, shows progress, prints or stores what was found.
import { runBench } from '../../bench/bench.ts';
import { cellId, FULL_CELLS, QUICK_CELLS, selectCells, TLS_CELLS } from '../../bench/matrix.ts';
import { bedSeconds, planBeds } from '../../bench/plan.ts';
import { benchChart } from '../../bench/report-chart.ts';
import { BENCH_PLACE, benchMarkdown } from '../../bench/report-document.ts';
import { benchHeading, benchTables } from '../../bench/report-table.ts';
import { selectServers } from '../../bench/servers/index.ts';
import { printPlan, runReported, say } from './bench-output.ts';

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
  const { rounds, seconds, sizeBytes, diskFolder } = config;
  if (config.list) {
    const planned = planBeds(cells, servers).reduce((sum, bed) => sum + bedSeconds(bed, rounds, seconds), 0);
    const about = servers.map(({ name, role, describe }) => `${name} (${role}): ${describe}`);
    printPlan(cells.map(cellId), planned, [...about, '']);
    return 0;
  }
  return runReported(config, {
    run: (about) =>
      runBench({
        ...{ ...about, cells, servers, rounds, seconds, sizeBytes, diskFolder },
        onLeftOut: ({ server, where, why }) => say(`LEFT OUT: ${server} from ${where}: ${why}`),
      }),
    heading: benchHeading,
    tables: benchTables,
    place: BENCH_PLACE,
    markdown: (result) => benchMarkdown(result, CHART_NAME),
    chart: { name: CHART_NAME, draw: benchChart },
  });
}
