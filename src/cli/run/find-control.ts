// Which process status, wait and verify ask: the one that was named, or the only one that runs.
import { OperationError } from '../../base/errors.ts';
import type { ControlAddress } from '../../control/address.ts';
import { findProcesses, type RunningProcess, runtimeDirs } from '../../control/runtime-dir.ts';

/**
 * @param given what `--control` said
 * @throws OperationError when no process runs, or several do: then it lists what to choose from
 */
export async function findControl(given: ControlAddress | undefined): Promise<ControlAddress> {
  if (given) return given;
  const found = await findProcesses();
  const [only] = found;
  if (only && found.length === 1) return addressOf(only);
  if (!only) {
    throw new OperationError(`no running repagent process in ${runtimeDirs().join(' or ')}`, {
      hint: 'start `repagent serve` or `repagent hub`, or name one with --control',
    });
  }
  const list = found.map((one) => `  ${one.kind} ${one.pid}: --control unix:${one.socketPath}`).join('\n');
  throw new OperationError(`${found.length} processes run, name one of them:\n${list}`);
}

function addressOf(process: RunningProcess): ControlAddress {
  return { kind: 'unix', path: process.socketPath };
}
