// Who this agent is to its hub: 16 random bytes that survive restarts. Two agents must never share one, so that it is
// never guessed anew while a file is there, readable or not.
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { errorMessage, OperationError } from '../base/errors.ts';
import { type FileCalls, readOrCreateFile, systemFiles } from '../base/small-files.ts';

export const AGENT_ID_BYTES = 16;

const FILE_NAME = 'agent-id';

/**
 * Reads the id kept in `stateDir`, or makes one and keeps it there, durably: a hub remembers it from the first moment on.
 * @param stateDir created when missing
 * @returns 16 bytes
 * @throws OperationError when the directory can't be used, or the file can't be read or holds something else
 */
export async function loadAgentId(stateDir: string, calls: FileCalls = systemFiles): Promise<Buffer> {
  const file = path.join(stateDir, FILE_NAME);
  let text: string;
  try {
    text = await readOrCreateFile(calls, file, () => `${randomBytes(AGENT_ID_BYTES).toString('hex')}\n`);
  } catch (error) {
    throw new OperationError(`the agent's id can't be kept in ${file}: ${errorMessage(error)}`, {
      hint: 'name a directory that can be read and written with --state-dir',
      cause: error,
    });
  }
  if (!/^[0-9a-f]{32}\n?$/.test(text)) {
    throw new OperationError(`${file} does not hold an agent id`, {
      hint: `remove it; the hub will then copy the volumes in full once: rm ${file}`,
    });
  }
  return Buffer.from(text.trim(), 'hex');
}
