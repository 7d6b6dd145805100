// `--socket-mode` and `--socket-owner`: permission bits, and users and groups by name or number.
import { execFileSync } from 'node:child_process';
import { UsageError } from '../base/errors.ts';
import type { SocketPermissions } from '../nbd/socket-file.ts';

/** Largest user or group id; the one above means "none" to the system. */
const MAX_ID = 2 ** 32 - 2;
const LOOKUP_TIMEOUT_MS = 10_000;

/** Finds the number of a user or group; undefined when there is none of that name. */
export type IdLookup = (database: 'passwd' | 'group', name: string) => number | undefined;

/**
 * Reads the two options.
 * @returns undefined when neither was given
 * @throws UsageError for what is no mode, user or group
 */
export function parseSocketPermissions(
  mode: string | undefined,
  owner: string | undefined,
  lookup: IdLookup = askSystem,
): SocketPermissions | undefined {
  if (mode === undefined && owner === undefined) return undefined;
  return { mode: mode === undefined ? undefined : parseMode(mode), ...parseOwner(owner, lookup) };
}

function parseMode(text: string): number {
  if (!/^0?[0-7]{3}$/.test(text)) {
    throw new UsageError(
      `--socket-mode: ${JSON.stringify(text)} is no mode; use three octal digits, such as 0660`,
    );
  }
  return Number.parseInt(text, 8);
}

function parseOwner(text: string | undefined, lookup: IdLookup): Pick<SocketPermissions, 'uid' | 'gid'> {
  if (text === undefined) return { uid: undefined, gid: undefined };
  const match = /^([^:]*)(?::([^:]+))?$/.exec(text);
  const [, user = '', group] = match ?? [];
  if (!match || (user === '' && group === undefined)) {
    throw new UsageError(
      `--socket-owner: ${JSON.stringify(text)} is no owner; use USER, USER:GROUP or :GROUP, by name or number`,
    );
  }
  return {
    uid: user === '' ? undefined : idOf('passwd', 'user', user, lookup),
    gid: group === undefined ? undefined : idOf('group', 'group', group, lookup),
  };
}

function idOf(database: 'passwd' | 'group', what: string, name: string, lookup: IdLookup): number {
  const id = /^\d+$/.test(name) ? Number(name) : lookup(database, name);
  if (id === undefined || id > MAX_ID) {
    throw new UsageError(`--socket-owner: there is no ${what} ${JSON.stringify(name)}`);
  }
  return id;
}

/** Not from /etc/passwd alone: users may be in a directory service. */
function askSystem(database: 'passwd' | 'group', name: string): number | undefined {
  try {
    const options = { encoding: 'utf8', timeout: LOOKUP_TIMEOUT_MS, stdio: 'pipe' } as const;
    const line = execFileSync('getent', ['--', database, name], options).split('\n')[0] ?? '';
    // Both databases: NAME:PASSWORD:ID:...
    const id = line.split(':')[2];
    return id !== undefined && /^\d+$/.test(id) ? Number(id) : undefined;
  } catch {
    return undefined;
  }
}
