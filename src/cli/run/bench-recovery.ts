// The body of `repagent bench --recovery`: shows progress, prints or stores what was found.
import { recoveryCellId, selectRecoveryCells } from '../../bench/recovery/cells.ts';
import { recoveryHeading, recoveryMarkdown, recoveryTables } from '../../bench/recovery/report.ts';
import { recoverySeconds, runRecovery } from '../../bench/recovery/run.ts';
import { RECOVERY_PLACE } from '../../bench/report-document.ts';
import { printPlan, runReported } from './bench-output.ts';

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
    printPlan(cells.map(recoveryCellId), recoverySeconds(cells, config));
    return 0;
  }
  return runReported(config, {
    run: (about) =>
      runRecovery({ ...about, cells, outageSeconds, rounds, roundSeconds, sizeBytes, diskFolder }),
    heading: recoveryHeading,
    tables: recoveryTables,
    place: RECOVERY_PLACE,
    markdown: recoveryMarkdown,
  });
}
