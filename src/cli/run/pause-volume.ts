// `repagent pause` and `repagent resume`: ask the process that serves a volume to hold its requests, and to go on.
import { formatDuration } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import { requestPause, requestResume } from '../../control/client.ts';
import type { PauseOrder } from '../../control/status.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';
import { findVolume } from './find-volume.ts';

export interface VolumeRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string;
}

/** @returns 0 when the volume is at rest @throws OperationError when it can't be paused; then it goes on */
export async function runPause(request: VolumeRequest & PauseOrder): Promise<number> {
  const address = await findControl(request.control);
  const { name } = await findVolume(address, request.volume);
  await requestPause(address, name, request);
  const after = formatDuration(request.timeoutMs);
  process.stdout.write(`${printable(name)}: paused; it goes on by itself after ${after}\n`);
  return 0;
}

/** @returns 0 when it was paused until now @throws OperationError when it wasn't */
export async function runResume(request: VolumeRequest): Promise<number> {
  const address = await findControl(request.control);
  const { name } = await findVolume(address, request.volume);
  const pausedMs = await requestResume(address, name);
  process.stdout.write(`${printable(name)}: goes on, after ${formatDuration(pausedMs)}\n`);
  return 0;
}
