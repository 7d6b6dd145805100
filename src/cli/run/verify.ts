// `repagent verify`: compares volumes with their replicas through the process that holds them.
import { OperationError } from '../../base/errors.ts';
import { formatBytes, formatDuration } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus, runVerify } from '../../control/client.ts';
import type { VerifyProgress, VerifyResult, VolumeStatus } from '../../control/status.ts';
import { isNamed, uniqueName } from '../../control/volume-name.ts';
import { ProgressLine } from '../view/progress-line.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';

export interface VerifyRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string | undefined;
  /** Undefined: every hub. */
  readonly hub: string | undefined;
  readonly json: boolean;
}

/** A replica to compare. */
interface Target {
  readonly volume: string;
  /** Undefined: hubs are not told apart. */
  readonly hub: string | undefined;
  /** What people see. */
  readonly title: string;
}

/**
 * @returns 0 when all that was compared is equal, 1 when something differs, or could not be compared while other
 *   replicas could
 * @throws OperationError when nothing can be compared
 */
export async function runVerifyCommand(request: VerifyRequest): Promise<number> {
  const address = await findControl(request.control);
  const targets = await findTargets(address, request);
  const results: VerifyResult[] = [];
  const errors: OperationError[] = [];
  for (const target of targets) {
    const startedAt = performance.now();
    try {
      const result = { ...(await verifyOne(address, target, startedAt)), volume: target.volume };
      results.push(result);
      const lines = describeResult(result, performance.now() - startedAt, target.title);
      if (!request.json) process.stdout.write(`${lines.join('\n')}\n`);
    } catch (error) {
      // One hub that is away is no reason not to compare with the others.
      if (!(error instanceof OperationError) || targets.length === 1) throw error;
      errors.push(error);
      const hint = error.hint === undefined ? '' : `; ${error.hint}`;
      process.stderr.write(`repagent: ${printable(target.title)}: ${printable(error.message + hint)}\n`);
    }
  }
  const equal = errors.length === 0 && results.every((result) => result.differing.length === 0);
  if (request.json) process.stdout.write(`${JSON.stringify({ equal, volumes: results })}\n`);
  return equal ? 0 : 1;
}

async function findTargets(
  address: ControlAddress,
  { volume: asked, hub }: Pick<VerifyRequest, 'volume' | 'hub'>,
): Promise<Target[]> {
  const { volumes } = await fetchStatus(address);
  const name = (volume: VolumeStatus): string => uniqueName(volume, volumes);
  const chosen = asked === undefined ? volumes : volumes.filter((volume) => isNamed(volume, asked));
  if (chosen.length === 0) {
    if (asked === undefined) {
      throw new OperationError('the process has no volumes', {
        hint: 'start the agent, or wait until it has connected',
      });
    }
    const list = volumes.map((volume) => printable(name(volume))).join(', ');
    throw new OperationError(`there is no volume ${printable(asked)}`, {
      hint: `there are: ${list || 'none'}`,
    });
  }
  const targets = chosen.flatMap((volume) => targetsOf(volume, asked ?? name(volume), hub));
  if (targets.length > 0) return targets;
  const known = [...new Set(chosen.flatMap(({ hubs = [] }) => hubs.map((one) => printable(one.hub))))];
  throw new OperationError(`there is no hub ${printable(hub ?? '')}`, {
    hint: `there are: ${known.join(', ') || 'none'}`,
  });
}

function targetsOf({ hubs = [] }: VolumeStatus, volume: string, asked: string | undefined): Target[] {
  if (asked === undefined && hubs.length < 2) return [{ volume, hub: undefined, title: volume }];
  return hubs
    .filter(({ hub }) => asked === undefined || hub === asked)
    .map(({ hub }) => ({ volume, hub, title: `${volume} at ${hub}` }));
}

async function verifyOne(
  address: ControlAddress,
  { volume, hub, title }: Target,
  startedAt: number,
): Promise<VerifyResult> {
  const line = new ProgressLine();
  const draw = ({ comparedBytes, totalBytes }: VerifyProgress): void => {
    const seconds = (performance.now() - startedAt) / 1000;
    line.update(`verifying ${printable(title)}`, {
      done: comparedBytes,
      total: totalBytes,
      rate: seconds > 0 ? comparedBytes / seconds : undefined,
    });
  };
  try {
    return await runVerify(address, volume, draw, hub);
  } finally {
    line.clear();
  }
}

/** The outcome in words; every range that differs is named exactly, bytes. */
export function describeResult(result: VerifyResult, elapsedMs: number, title = result.volume): string[] {
  const what = `${printable(title)}: ${formatBytes(result.comparedBytes)} compared in ${formatDuration(elapsedMs)}`;
  const { differing } = result;
  if (differing.length === 0) return [`${what}, equal`];
  const total = differing.reduce((bytes, range) => bytes + range.length, 0);
  const ranges = differing.map(({ offset, length }) => `  offset ${offset} length ${length}`);
  return [`${what}, DIFFERENT in ${formatBytes(total)}:`, ...ranges];
}
