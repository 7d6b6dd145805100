// `repagent verify`: compares volumes with their replicas through the process that holds them.
import { OperationError } from '../../base/errors.ts';
import { formatBytes, formatDuration } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus, runVerify } from '../../control/client.ts';
import type { VerifyResult } from '../../control/status.ts';
import { isNamed, uniqueName } from '../../control/volume-name.ts';
import { ProgressLine } from '../view/progress-line.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';

export interface VerifyRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string | undefined;
  readonly json: boolean;
}

/** @returns 0 when all that was compared is equal, 1 when it differs @throws OperationError when it can't be compared */
export async function runVerifyCommand(request: VerifyRequest): Promise<number> {
  const address = await findControl(request.control);
  const names = await volumeNames(address, request.volume);
  const results: VerifyResult[] = [];
  for (const name of names) {
    const startedAt = performance.now();
    const result = { ...(await verifyOne(address, name, startedAt)), volume: name };
    results.push(result);
    if (!request.json)
      process.stdout.write(`${describeResult(result, performance.now() - startedAt).join('\n')}\n`);
  }
  const equal = results.every((result) => result.differing.length === 0);
  if (request.json) process.stdout.write(`${JSON.stringify({ equal, volumes: results })}\n`);
  return equal ? 0 : 1;
}

async function volumeNames(address: ControlAddress, asked: string | undefined): Promise<string[]> {
  const { volumes } = await fetchStatus(address);
  const names = volumes.map((volume) => uniqueName(volume, volumes));
  const list = names.map(printable).join(', ');
  if (asked !== undefined) {
    if (volumes.some((volume) => isNamed(volume, asked))) return [asked];
    throw new OperationError(`there is no volume ${printable(asked)}`, {
      hint: `there are: ${list || 'none'}`,
    });
  }
  if (names.length > 0) return names;
  throw new OperationError('the process has no volumes', {
    hint: 'start the agent, or wait until it has connected',
  });
}

async function verifyOne(address: ControlAddress, volume: string, startedAt: number): Promise<VerifyResult> {
  const line = new ProgressLine();
  try {
    return await runVerify(address, volume, ({ comparedBytes, totalBytes }) => {
      const seconds = (performance.now() - startedAt) / 1000;
      line.update(`verifying ${printable(volume)}`, {
        done: comparedBytes,
        total: totalBytes,
        rate: seconds > 0 ? comparedBytes / seconds : undefined,
      });
    });
  } finally {
    line.clear();
  }
}

/** The outcome in words; every range that differs is named exactly, bytes. */
export function describeResult(result: VerifyResult, elapsedMs: number): string[] {
  const what = `${printable(result.volume)}: ${formatBytes(result.comparedBytes)} compared in ${formatDuration(elapsedMs)}`;
  const { differing } = result;
  if (differing.length === 0) return [`${what}, equal`];
  const total = differing.reduce((bytes, range) => bytes + range.length, 0);
  const ranges = differing.map(({ offset, length }) => `  offset ${offset} length ${length}`);
  return [`${what}, DIFFERENT in ${formatBytes(total)}:`, ...ranges];
}
