// `repagent adjust` and `repagent readonly`: change options of a filter in the process that runs it.
import type { ControlAddress } from '../../control/address.ts';
import { requestAdjust } from '../../control/client.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';
import { findVolume } from './find-volume.ts';

export interface AdjustRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string;
  readonly filter: string;
  /** Each OPTION=VALUE. */
  readonly settings: readonly string[];
  readonly json: boolean;
}

/** @returns 0 when the changes have taken effect @throws OperationError when they can't */
export async function runAdjust(request: AdjustRequest): Promise<number> {
  const { filter, settings, json } = request;
  const address = await findControl(request.control);
  const { name } = await findVolume(address, request.volume);
  const status = await requestAdjust(address, name, filter, settings);
  const text = json ? JSON.stringify(status) : `${printable(name)}: ${filter} ${settings.join(' ')}`;
  process.stdout.write(`${text}\n`);
  return 0;
}
