// The file of a replica's record: replaced as a whole, and durable when the call has answered. It must never leave half
// a record behind, nor an old one in front of a newer.
import path from 'node:path';
import { errorMessage, OperationError } from '../base/errors.ts';
import { type FileCalls, makeFolderDurably, replaceFile, systemFiles } from '../base/small-files.ts';
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
export function recordFile(file: string, calls: FileCalls = systemFiles): RecordPlace {
  let hasFolder = false;
  return {
    load: async () => {
      try {
        const text = await calls.read(file);
        return text === undefined ? undefined : (decodeRecord(text) ?? 'damaged');
      } catch (error) {
        throw failed(file, error);
      }
    },
    save: async (record) => {
      try {
        if (!hasFolder) await makeFolderDurably(calls, path.dirname(file));
        hasFolder = true;
        await replaceFile(calls, file, encodeRecord(record));
      } catch (error) {
        hasFolder = false;
        throw failed(file, error);
      }
    },
  };
}

function failed(file: string, error: unknown): OperationError {
  return new OperationError(`the record of a replica can't be kept in ${file}: ${errorMessage(error)}`, {
    hint: 'make room there, and check who may write to it',
    cause: error,
  });
}
