// The body of `repagent bench --scale`: shows progress, prints or stores what was found.
import { SCALE_PLACE } from '../../bench/report-document.ts';
import { scaleSeconds, selectScaleCells } from '../../bench/scale/cells.ts';
import { scaleHeading, scaleMarkdown, scaleTables } from '../../bench/scale/report.ts';
import { runScale } from '../../bench/scale/run.ts';
import { printPlan, runReported } from './bench-output.ts';

export interface ScaleConfig {
  readonly seconds: number;
  readonly cells: readonly string[];
  readonly json: boolean;
  readonly report: string | undefined;
  readonly list: boolean;
}

export async function runScaleCommand(config: ScaleConfig): Promise<number> {
  const { seconds } = config;
  const cells = selectScaleCells(config.cells);
  if (config.list) {
    printPlan(
      cells.map(({ id }) => id),
      scaleSeconds(cells, seconds),
    );
    return 0;
  }
  return runReported(config, {
    run: (about) => runScale({ ...about, cells, seconds }),
    heading: scaleHeading,
    tables: scaleTables,
    place: SCALE_PLACE,
    markdown: scaleMarkdown,
  });
}
