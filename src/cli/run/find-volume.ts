// Which volume of a process a command means.
import { OperationError } from '../../base/errors.ts';
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus } from '../../control/client.ts';
import type { VolumeStatus } from '../../control/status.ts';
import { isNamed } from '../../control/volume-name.ts';
import { printable } from '../view/terminal.ts';

/** @throws OperationError when nobody answers, or the process has no such volume: then it lists those that it has */
export async function findVolume(address: ControlAddress, asked: string): Promise<VolumeStatus> {
  const { volumes } = await fetchStatus(address);
  const volume = volumes.find((one) => isNamed(one, asked));
  if (volume) return volume;
  const list = volumes.map((one) => printable(one.name)).join(', ');
  throw new OperationError(`there is no volume ${printable(asked)}`, {
    hint: `there are: ${list || 'none'}`,
  });
}
