// Small files that must outlive a power failure: an id, a record. Each is whole or not there, and durable with its name
// when the call has answered. The system calls are behind an interface, so that a test can lose what was not synced.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { errorCode } from './errors.ts';

/** The calls, as the system has them: nothing is durable unless `sync` says so. */
export interface FileCalls {
  /** @returns undefined when there is none @throws Error with `code` */
  read(file: string): Promise<string | undefined>;
  /** Over whatever is there; readable for its owner alone. @throws Error with `code` */
  write(file: string, text: string): Promise<void>;
  /** Makes the content of a file durable, or the names in a folder. @throws Error with `code` */
  sync(fileOrFolder: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** A second name. @throws Error with `code`, EEXIST when it is taken */
  link(from: string, to: string): Promise<void>;
  /** Not an error when there is none. */
  remove(file: string): Promise<void>;
  /** With all that lead to it. Not an error when it's there. @throws Error with `code` */
  makeFolder(folder: string): Promise<void>;
}

export const systemFiles: FileCalls = {
  read: async (file) => {
    try {
      return await fs.readFile(file, 'utf8');
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  },
  write: (file, text) => fs.writeFile(file, text, { mode: 0o600 }),
  sync: async (fileOrFolder) => {
    const handle = await fs.open(fileOrFolder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
  rename: (from, to) => fs.rename(from, to),
  link: (from, to) => fs.link(from, to),
  remove: (file) => fs.rm(file, { force: true }),
  makeFolder: async (folder) => {
    await fs.mkdir(folder, { recursive: true, mode: 0o700 });
  },
};

/** What a folder says that can't be synced, or that may not be: no reason to refuse. */
const UNSYNCABLE: ReadonlySet<string | undefined> = new Set(['EACCES', 'EPERM', 'EROFS', 'EINVAL']);

/**
 * Makes a folder, and the way to it, durably. What is there already may not be durable: who made it may have been killed
 * before it was.
 * @throws Error with `code`
 */
export async function makeFolderDurably(calls: FileCalls, folder: string): Promise<void> {
  const last = path.resolve(folder);
  await calls.makeFolder(last);
  for (let made = last; made !== path.dirname(made); made = path.dirname(made)) {
    await calls.sync(path.dirname(made)).catch((error: unknown) => {
      if (!UNSYNCABLE.has(errorCode(error))) throw error;
    });
  }
}

/** Puts a file in the place of the one that is there, or leaves that one. @throws Error with `code` */
export async function replaceFile(calls: FileCalls, file: string, text: string): Promise<void> {
  const draft = `${file}.new`;
  await calls.write(draft, text);
  await calls.sync(draft);
  await calls.rename(draft, file);
  await calls.sync(path.dirname(file));
}

/**
 * Reads a file that is made at the first start and never again. Of two that make it together the first one wins. What
 * was found is durable too: who made it may have been killed before it was.
 * @throws Error with `code`
 */
export async function readOrCreateFile(calls: FileCalls, file: string, make: () => string): Promise<string> {
  await makeFolderDurably(calls, path.dirname(file));
  const text = (await calls.read(file)) ?? (await createFile(calls, file, make()));
  await calls.sync(path.dirname(file));
  return text;
}

async function createFile(calls: FileCalls, file: string, text: string): Promise<string> {
  const draft = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    await calls.write(draft, text);
    await calls.sync(draft);
    await calls.link(draft, file);
    return text;
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    const winner = await calls.read(file);
    if (winner === undefined) throw error;
    return winner;
  } finally {
    await calls.remove(draft);
  }
}
