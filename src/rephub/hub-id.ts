// Who this hub is: an id that survives restarts when there is a place to keep it, and an epoch that never does. What
// an agent and a hub remember of each other in memory is worth nothing once either epoch has changed.
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { errorMessage, OperationError } from '../base/errors.ts';
import { type FileCalls, readOrCreateFile, systemFiles } from '../base/small-files.ts';

export interface HubIdentity {
  /** 16 bytes. */
  readonly id: Buffer;
  /** Random for each life of the process. */
  readonly epoch: bigint;
}

const ID_BYTES = 16;
const FILE_NAME = 'hub-id';

/**
 * Reads the id kept in `stateDir`, or makes one and keeps it there.
 * @param stateDir created when missing; without it the id is for this life only
 * @throws OperationError when the directory can't be used or holds something else
 */
export async function loadHubIdentity(
  stateDir: string | undefined,
  calls: FileCalls = systemFiles,
): Promise<HubIdentity> {
  const epoch = randomBytes(8).readBigUInt64LE();
  if (stateDir === undefined) return { id: randomBytes(ID_BYTES), epoch };
  const file = path.join(stateDir, FILE_NAME);
  let text: string;
  try {
    text = await readOrCreateFile(calls, file, () => `${randomBytes(ID_BYTES).toString('hex')}\n`);
  } catch (error) {
    throw new OperationError(`the hub can't keep its id in ${file}: ${errorMessage(error)}`, {
      hint: 'name a directory that can be written to with --state-dir',
      cause: error,
    });
  }
  if (!/^[0-9a-f]{32}$/.test(text.trim())) {
    throw new OperationError(`${file} does not hold a hub id`, {
      hint: `remove it; agents will then copy their volumes in full once: rm ${file}`,
    });
  }
  return { id: Buffer.from(text.trim(), 'hex'), epoch };
}
