// The body of `repagent bench --recovery`: shows progress, prints or stores what was found.
import { formatDuration } from '../../base/size.ts';
import { recoveryCellId, selectRecoveryCells } from '../../bench/recovery/cells.ts';
import { recoveryHeading, recoveryMarkdown, recoveryTables } from '../../bench/recovery/report.ts';
import { recoverySeconds, runRecovery } from '../../bench/recovery/run.ts';
import { RECOVERY_PLACE } from '../../bench/report-document.ts';
import { textTable } from '../../bench/report-table.ts';
import { packageVersion } from '../version.ts';
import { clearProgress, ownProgramPath, ReportDocument, say, showProgress } from './bench-output.ts';
import { watchSignals } from './signals.ts';

export interface RecoveryConfig {
  readonly cells: readonly string[];
  readonly outageSeconds: number;
  readonly rounds: number;
  readonly roundSeconds: number;
  readonly sizeBytes: number;
  readonly diskFolder: string | undefined;
  readonly json: boolean;
  readonly report: string | undefined;
  readonly list: boolean;
}

export async function runRecoveryCommand(config: RecoveryConfig): Promise<number> {
  const cells = selectRecoveryCells(config.cells);
  const { outageSeconds, rounds, roundSeconds, sizeBytes, diskFolder } = config;
  if (config.list) {
    const time = formatDuration(recoverySeconds(cells, config) * 1000);
    process.stdout.write(
      `${[...cells.map(recoveryCellId), '', `${cells.length} cells in about ${time}`].join('\n')}\n`,
    );
    return 0;
  }
  const document =
    config.report === undefined ? undefined : new ReportDocument(config.report, RECOVERY_PLACE);
  const signals = watchSignals();
  try {
    const result = await runRecovery({
      ...{ cells, outageSeconds, rounds, roundSeconds, sizeBytes, diskFolder },
      program: ownProgramPath(),
      repagentVersion: packageVersion(),
      aborted: signals.aborted,
      onProgress: showProgress,
    });
    clearProgress();
    if (document) {
      document.write(recoveryMarkdown(result));
      say(`written: ${document.path}`);
    }
    const text = [...recoveryHeading(result), '', ...recoveryTables(result).map(textTable)]
      .join('\n')
      .trimEnd();
    process.stdout.write(config.json ? `${JSON.stringify(result, null, 2)}\n` : `${text}\n`);
    return 0;
  } finally {
    clearProgress();
    signals.dispose();
  }
}
