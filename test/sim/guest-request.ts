// What guests do to a volume: each write brings numbers that no sector held before, and lends its bytes until the answer.
import type { MaybePromise } from '../../src/base/maybe.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import type { WorldVolume } from './rules.ts';
import { fillSector, SECTOR } from './sectors.ts';
import type { World } from './world.ts';

/** @param fua and for zeroes, whether their space may be given back */
export function guestRequest(
  world: World,
  volume: WorldVolume,
  kind: Mutation['kind'],
  first: number,
  sectors: number,
  fua: boolean,
): void {
  const { disk, truth } = volume;
  const guest = volume.guest!;
  const offset = first * SECTOR;
  const length = sectors * SECTOR;
  const data = kind === 'write' ? Buffer.allocUnsafe(length) : undefined;
  let tag = 0;
  if (data) {
    for (let at = 0; at < length; at += SECTOR) {
      tag = world.nextTag();
      fillSector(data, at, tag);
    }
  }
  if (world.isTracing) world.tell(`guest ${volume.name} ${kind} ${first}+${sectors} tag ${tag}`);
  const isMine = (): boolean => volume.truth === truth;
  const answered = (): void => {
    // The loan is over: whoever still looks at these bytes sees rubbish.
    data?.fill(0xdd);
  };
  const failed = (error: unknown): void => {
    if (!isMine()) return;
    volume.failures += 1;
    if (!String(error).includes('simulated')) world.fail(`a guest's request failed: ${String(error)}`);
  };
  world.clock.as(world.agentHost, () => {
    let result: MaybePromise<void> | undefined;
    try {
      result = applyMutation(guest, mutation(kind, offset, length, data, fua));
    } catch (error) {
      failed(error);
    }
    if (!(result instanceof Promise)) return answered();
    if (disk.isIdle && !world.agents.keeping.exact && !world.agents.isSyncing(volume))
      world.fail('a disk that answered at once was made slow');
    volume.waiting += 1;
    result.catch(failed).finally(() => {
      answered();
      if (isMine()) volume.waiting -= 1;
    });
  });
}

function mutation(
  kind: Mutation['kind'],
  offset: number,
  length: number,
  data: Buffer | undefined,
  fua: boolean,
): Mutation {
  switch (kind) {
    case 'write':
      return { kind, offset, data: data!, fua };
    case 'trim':
      return { kind, offset, length, fua };
    case 'writeZeroes':
      return { kind, offset, length, fua, mayTrim: fua };
    case 'flush':
      return { kind };
    default:
      throw new Error(`no guest does ${String(kind)}`);
  }
}
