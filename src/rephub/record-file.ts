// The file of a replica's record: replaced as a whole, and durable when the call has answered. It must never leave half
// a record behind, nor an old one in front of a newer.
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { decodeRecord, encodeRecord, type ReplicaRecord } from './replica-record.ts';

export interface RecordPlace {
  /** @returns undefined when there is none, 'damaged' when what is there can't be believed @throws OperationError */
  load(): Promise<ReplicaRecord | 'damaged' | undefined>;
  /** @throws OperationError */
  save(record: ReplicaRecord): Promise<void>;
}

/** A record that is gone with the process. */
export function memoryRecord(): RecordPlace {
  let kept: ReplicaRecord | undefined;
  return {
    load: async () => kept,
    save: async (record) => {
      kept = record;
    },
  };
}

/** @param file its folder is created when the record is first saved */
export function recordFile(file: string): RecordPlace {
  return { load: () => load(file), save: (record) => save(file, record) };
}

async function load(file: string): Promise<ReplicaRecord | 'damaged' | undefined> {
  try {
    return decodeRecord(await fs.readFile(file, 'utf8')) ?? 'damaged';
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw failed(file, error);
  }
}

async function save(file: string, record: ReplicaRecord): Promise<void> {
  const folder = path.dirname(file);
  const draft = `${file}.new`;
  try {
    await fs.mkdir(folder, { recursive: true, mode: 0o700 });
    await fs.writeFile(draft, encodeRecord(record), { mode: 0o600, flush: true });
    await fs.rename(draft, file);
    const handle = await fs.open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw failed(file, error);
  }
}

function failed(file: string, error: unknown): OperationError {
  return new OperationError(`the record of a replica can't be kept in ${file}: ${errorMessage(error)}`, {
    hint: 'make room there, and check who may write to it',
    cause: error,
  });
}
