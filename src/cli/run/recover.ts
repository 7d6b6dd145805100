// `repagent recover`: puts an image back, and says to what.
import { createLogger, type LogLevel } from '../../base/log.ts';
import { formatBytes } from '../../base/size.ts';
import { recoverTarget } from '../../rephub/recover-image.ts';
import { pointText } from '../../rephub/recovery-point.ts';
import { printable } from '../view/terminal.ts';

export interface RecoverRequest {
  /** Undefined: a replica below a hub's --store. */
  readonly volumeName: string | undefined;
  readonly path: string;
  readonly stateDir: string;
  readonly checkOnly: boolean;
  readonly json: boolean;
  readonly logLevel: LogLevel;
}

/** @returns 0 @throws OperationError when there is nothing to go back to, or it can't be done */
export async function runRecover(request: RecoverRequest): Promise<number> {
  const { path, checkOnly, json } = request;
  const logger = createLogger(request.logLevel, 'recover');
  const { point, bytes } = await recoverTarget(request, checkOnly, logger);
  if (json) {
    process.stdout.write(`${JSON.stringify({ path, checkOnly, bytes, ...point })}\n`);
    return 0;
  }
  const verb = checkOnly ? 'would be put back' : 'was put back';
  const done = bytes === 0 ? 'is as it was' : `${verb}, ${formatBytes(bytes)},`;
  process.stdout.write(`${printable(path)} ${done} at ${pointText(point)}\n`);
  return 0;
}
