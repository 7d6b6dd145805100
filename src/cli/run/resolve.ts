// `repagent resolve`: tells the hub who is right about a volume.
import type { ControlAddress } from '../../control/address.ts';
import { requestResolve } from '../../control/client.ts';
import { printable } from '../view/terminal.ts';
import { findControl } from './find-control.ts';

export interface ResolveRequest {
  readonly control: ControlAddress | undefined;
  readonly volume: string;
  readonly use: 'agent' | 'replica';
  readonly agentId: string | undefined;
}

/** @returns 0 @throws OperationError when there is nothing to resolve */
export async function runResolve({ control, volume, use, agentId }: ResolveRequest): Promise<number> {
  const address = await findControl(control);
  const done = await requestResolve(address, volume, use, agentId);
  process.stdout.write(`${printable(volume)}: ${printable(done)}\n`);
  return 0;
}
