// The file of an undo log, as bytes. It comes into being whole and is gone at once: whoever looks at its name after a
// crash finds either all of its head or no file. Nothing here knows what the bytes mean.
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorCode } from '../base/errors.ts';
import { type FileCalls, systemFiles } from '../base/small-files.ts';

export interface UndoFile {
  readonly sizeBytes: number;
  /** Fills `target` as far as the file goes. @returns how many bytes that were */
  read(position: number, target: Buffer): Promise<number>;
  write(position: number, data: Buffer): Promise<void>;
  /** Cuts off what lies beyond. */
  truncate(sizeBytes: number): Promise<void>;
  /** Makes all that was written durable. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** Where the undo log of one replica is kept. Failures are errors with `code`. */
export interface UndoPlace {
  /** For people. */
  readonly path: string;
  /** Its name is durable when the call has answered; who gave it may have been killed before. */
  open(): Promise<UndoFile | undefined>;
  /** There is none. Durable, with its name, when the call has answered; otherwise there is none still. */
  create(content: Buffer): Promise<UndoFile>;
  /** Durable when the call has answered. */
  remove(): Promise<void>;
  /** Keeps it under another name, in place of what was kept so before. */
  setAside(): Promise<void>;
}

/** The calls, as the system has them: nothing is durable unless a sync says so. */
export interface UndoCalls extends Pick<FileCalls, 'sync' | 'rename' | 'remove' | 'makeFolder'> {
  /**
   * Opens a file to read and write.
   * @param isNew made for its owner alone, or emptied; else it must be there
   * @throws Error with `code`, ENOENT when it is not
   */
  open(file: string, isNew: boolean): Promise<UndoFile>;
}

const systemCalls: UndoCalls = {
  ...systemFiles,
  open: (file, isNew) => openFile(file, isNew ? 'w+' : 'r+'),
};

/** @param file its folder is created when a log is first kept */
export function undoPlace(file: string, calls = systemCalls): UndoPlace {
  const folder = path.dirname(file);
  return {
    path: file,
    open: async () => {
      let opened: UndoFile;
      try {
        opened = await calls.open(file, false);
      } catch (error) {
        if (errorCode(error) === 'ENOENT') return undefined;
        throw error;
      }
      try {
        await calls.sync(folder);
        return opened;
      } catch (error) {
        await opened.close();
        throw error;
      }
    },
    create: async (content) => {
      await calls.makeFolder(folder);
      const draft = `${file}.new`;
      let created: UndoFile | undefined;
      try {
        created = await calls.open(draft, true);
        await created.write(0, content);
        await created.sync();
        await calls.rename(draft, file);
        await calls.sync(folder);
        return created;
      } catch (error) {
        await created?.close().catch(() => undefined);
        await calls.remove(draft).catch(() => undefined);
        throw error;
      }
    },
    remove: async () => {
      await calls.remove(file);
      await calls.sync(folder);
    },
    setAside: async () => {
      await calls.rename(file, `${file}.old`);
      await calls.sync(folder);
    },
  };
}

async function openFile(file: string, flags: string): Promise<UndoFile> {
  const handle = await fs.open(file, flags, 0o600);
  let sizeBytes = (await handle.stat()).size;
  return {
    get sizeBytes() {
      return sizeBytes;
    },
    read: async (position, target) => {
      let done = 0;
      while (done < target.length) {
        const { bytesRead } = await handle.read(target, done, target.length - done, position + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return done;
    },
    write: async (position, data) => {
      let done = 0;
      while (done < data.length) {
        const { bytesWritten } = await handle.write(data, done, data.length - done, position + done);
        done += bytesWritten;
        sizeBytes = Math.max(sizeBytes, position + done);
      }
    },
    truncate: async (size) => {
      await handle.truncate(size);
      sizeBytes = size;
    },
    sync: () => handle.datasync(),
    close: () => handle.close(),
  };
}
