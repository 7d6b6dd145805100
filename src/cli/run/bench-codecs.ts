// The body of `repagent bench --codecs`.
import { basename } from 'node:path';
import { errorCode, UsageError } from '../../base/errors.ts';
import { codecTable, measureCodecs, sampleLoads } from '../../bench/codecs.ts';
import { textTable } from '../../bench/report-table.ts';

export function runCodecsCommand(path: string, json: boolean): number {
  const figures = measureCodecs(loadsOf(path));
  const title = `Loads of 256 KiB of ${basename(path)}, in processor time of one core`;
  process.stdout.write(
    `${json ? JSON.stringify(figures, null, 2) : textTable(codecTable(title, figures))}\n`,
  );
  return 0;
}

function loadsOf(path: string): Buffer[] {
  try {
    return sampleLoads(path);
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    throw new UsageError(`--codecs: ${path} can't be read (${errorCode(error)})`);
  }
}
