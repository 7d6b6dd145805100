// One volume on one connection: the id by which the agent names it there, and the replica behind it.
import { WireError } from '../wire/struct.ts';
import type { Replica } from './replica.ts';
import type { Verification } from './verification.ts';

export interface SessionVolume {
  readonly id: bigint;
  readonly name: string;
  readonly sizeBytes: number;
  readonly replica: Replica;
  /** Something was taken in that has to be applied at the end of the pass. */
  touched: boolean;
  verification: Verification | undefined;
  /** What was left to read when the agent was last told. */
  toldRemainingBytes: number;
}

/** @throws WireError when the range is not on the volume */
export function checkOnVolume(what: string, volume: SessionVolume, offset: number, length: number): void {
  if (offset + length <= volume.sizeBytes) return;
  throw new WireError(
    `${what} of ${length} bytes at ${offset} reaches beyond the end of ${volume.name}, ${volume.sizeBytes} bytes`,
  );
}
