// Mode and owner of a unix socket's file. There is no moment at which more people may connect than in the end, and what
// stands at the path by then is never touched unless it is a socket.
import { chmodSync, chownSync, closeSync, constants, fstatSync, openSync } from 'node:fs';
import { OperationError } from '../base/errors.ts';

export interface SocketPermissions {
  /** Permission bits; undefined: as the process's umask has it. */
  readonly mode: number | undefined;
  /** undefined: stays the process's. */
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

const ALL_BITS = 0o777;
/** Opens a file's place, not its content. Linux only; missing in Node's constants. */
const O_PATH = 0o10000000;

/**
 * Calls `bind`, which makes the file at once, with a umask under which it can't be too open.
 * @returns what `bind` returned
 */
export function bindWithMode<T>(permissions: SocketPermissions, bind: () => T): T {
  const { mode, uid, gid } = permissions;
  // Until it has its owner nobody may connect: the group that it has now isn't the one that is meant.
  const first = uid === undefined && gid === undefined ? mode : 0;
  if (first === undefined) return bind();
  const before = process.umask(ALL_BITS - first);
  try {
    return bind();
  } finally {
    process.umask(before);
  }
}

/**
 * Gives the file its owner, and then its mode.
 * @throws Error of the system's, with `code`; OperationError when no socket is there any more
 */
export function applyPermissions(path: string, permissions: SocketPermissions): void {
  const { uid, gid } = permissions;
  if (uid === undefined && gid === undefined) return;
  // With an owner, the mode that the umask would have given has to be said: it was bound without any.
  const mode = permissions.mode ?? ALL_BITS - (process.umask() & ALL_BITS);
  if (process.platform !== 'linux') {
    chownSync(path, uid ?? -1, gid ?? -1);
    chmodSync(path, mode);
    return;
  }
  const fd = openSync(path, O_PATH + constants.O_NOFOLLOW);
  try {
    if (!fstatSync(fd).isSocket()) throw new OperationError(`${path} is not our socket any more`);
    const place = `/proc/self/fd/${fd}`;
    chownSync(place, uid ?? -1, gid ?? -1);
    chmodSync(place, mode);
  } finally {
    closeSync(fd);
  }
}
