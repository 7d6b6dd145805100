// `repagent resize`: asks the process that serves a volume to make it larger.
import { formatBytes } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import { requestResize } from '../../control/client.ts';
import type { NewSize } from '../commands/resize.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';
import { findVolume } from './find-volume.ts';

export interface ResizeRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string;
  readonly size: NewSize;
}

/** @returns 0 @throws OperationError when it can't be done */
export async function runResize({ control, volume: asked, size }: ResizeRequest): Promise<number> {
  const address = await findControl(control);
  const volume = await findVolume(address, asked);
  const sizeBytes = size.isRelative ? volume.sizeBytes + size.bytes : size.bytes;
  await requestResize(address, volume.name, sizeBytes);
  const [before, after] = [volume.sizeBytes, sizeBytes].map(formatBytes);
  process.stdout.write(
    `${printable(volume.name)}: ${before} -> ${after}; clients see it when they connect anew\n`,
  );
  return 0;
}
