// The body of `repagent bench --scale`: shows progress, prints or stores what was found.
import { formatDuration } from '../../base/size.ts';
import { SCALE_PLACE } from '../../bench/report-document.ts';
import { textTable } from '../../bench/report-table.ts';
import { scaleHeading, scaleMarkdown, scaleTable } from '../../bench/scale/report.ts';
import { runScale, scaleSeconds, selectScaleCells } from '../../bench/scale/run.ts';
import { packageVersion } from '../version.ts';
import { clearProgress, ownProgramPath, ReportDocument, say, showProgress } from './bench-output.ts';
import { watchSignals } from './signals.ts';

export interface ScaleConfig {
  readonly seconds: number;
  readonly cells: readonly string[];
  readonly json: boolean;
  readonly report: string | undefined;
  readonly list: boolean;
}

export async function runScaleCommand(config: ScaleConfig): Promise<number> {
  const { seconds, json, report } = config;
  const cells = selectScaleCells(config.cells);
  if (config.list) {
    const time = formatDuration(scaleSeconds(cells, seconds) * 1000);
    process.stdout.write(
      `${[...cells.map(({ id }) => id), '', `${cells.length} cells in about ${time}`].join('\n')}\n`,
    );
    return 0;
  }
  const document = report === undefined ? undefined : new ReportDocument(report, SCALE_PLACE);
  const signals = watchSignals();
  try {
    const result = await runScale({
      ...{ cells, seconds },
      program: ownProgramPath(),
      repagentVersion: packageVersion(),
      aborted: signals.aborted,
      onProgress: showProgress,
    });
    clearProgress();
    if (document) {
      document.write(scaleMarkdown(result));
      say(`written: ${document.path}`);
    }
    const text = [...scaleHeading(result), '', textTable(scaleTable(result))].join('\n').trimEnd();
    process.stdout.write(json ? `${JSON.stringify(result, null, 2)}\n` : `${text}\n`);
    return 0;
  } finally {
    clearProgress();
    signals.dispose();
  }
}
