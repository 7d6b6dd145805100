// Who this agent is to its hub: 16 random bytes that survive restarts. Two agents must never share one, so that it is
// never guessed anew while a file is there, readable or not.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';

export const AGENT_ID_BYTES = 16;

const FILE_NAME = 'agent-id';

/**
 * Reads the id kept in `stateDir`, or makes one and keeps it there.
 * @param stateDir created when missing
 * @returns 16 bytes
 * @throws OperationError when the directory can't be used, or the file can't be read or holds something else
 */
export async function loadAgentId(stateDir: string): Promise<Buffer> {
  const file = path.join(stateDir, FILE_NAME);
  try {
    await fs.mkdir(stateDir, { recursive: true, mode: 0o700 });
    return (await readId(file)) ?? (await createId(file));
  } catch (error) {
    if (error instanceof OperationError) throw error;
    throw new OperationError(`the agent's id can't be kept in ${file}: ${errorMessage(error)}`, {
      hint: 'name a directory that can be read and written with --state-dir',
      cause: error,
    });
  }
}

async function readId(file: string): Promise<Buffer | undefined> {
  let text: string;
  try {
    text = await fs.readFile(file, 'latin1');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  if (!/^[0-9a-f]{32}\n?$/.test(text)) {
    throw new OperationError(`${file} does not hold an agent id`, {
      hint: `remove it; the hub will then copy the volumes in full once: rm ${file}`,
    });
  }
  return Buffer.from(text.trim(), 'hex');
}

/** Whole or not at all, and the first of two agents that try wins. */
async function createId(file: string): Promise<Buffer> {
  const id = randomBytes(AGENT_ID_BYTES);
  const draft = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    await fs.writeFile(draft, `${id.toString('hex')}\n`, { flag: 'wx', mode: 0o600, flush: true });
    await fs.link(draft, file);
    return id;
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    const winner = await readId(file);
    if (!winner) throw error;
    return winner;
  } finally {
    await fs.rm(draft, { force: true });
  }
}
