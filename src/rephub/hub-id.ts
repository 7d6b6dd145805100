// Who this hub is: an id that survives restarts when there is a place to keep it, and an epoch that never does. What
// an agent and a hub remember of each other in memory is worth nothing once either epoch has changed.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';

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
export async function loadHubIdentity(stateDir: string | undefined): Promise<HubIdentity> {
  const epoch = randomBytes(8).readBigUInt64LE();
  if (stateDir === undefined) return { id: randomBytes(ID_BYTES), epoch };
  const file = path.join(stateDir, FILE_NAME);
  try {
    await fs.mkdir(stateDir, { recursive: true, mode: 0o700 });
    const id = (await readId(file)) ?? (await createId(file));
    return { id, epoch };
  } catch (error) {
    if (error instanceof OperationError) throw error;
    throw new OperationError(`the hub can't keep its id in ${file}: ${errorMessage(error)}`, {
      hint: 'name a directory that can be written to with --state-dir',
      cause: error,
    });
  }
}

async function readId(file: string): Promise<Buffer | undefined> {
  let text: string;
  try {
    text = (await fs.readFile(file, 'utf8')).trim();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw new OperationError(`${file} does not hold a hub id`, {
      hint: `remove it; agents will then copy their volumes in full once: rm ${file}`,
    });
  }
  return Buffer.from(text, 'hex');
}

/** Whole or not at all, and the first of two hubs that try wins. */
async function createId(file: string): Promise<Buffer> {
  const id = randomBytes(ID_BYTES);
  const draft = `${file}.${process.pid}.${id.toString('hex').slice(0, 8)}`;
  await fs.writeFile(draft, `${id.toString('hex')}\n`, { flag: 'wx', mode: 0o600, flush: true });
  try {
    await fs.link(draft, file);
    return id;
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    return (await readId(file)) ?? id;
  } finally {
    await fs.rm(draft, { force: true });
  }
}
