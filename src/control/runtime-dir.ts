// The directory where running processes of one user leave their control sockets, and how to find them there.
// A directory that someone else could have prepared is refused, never used.
import { chmodSync, lstatSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';

export type ProcessKind = 'serve' | 'hub';

/** A process that answered at its control socket. */
export interface RunningProcess {
  readonly kind: ProcessKind;
  readonly pid: number;
  readonly socketPath: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const SOCKET_NAME = /^(serve|hub)-(\d{1,10})\.sock$/;
const PROBE_TIMEOUT_MS = 1000;

/**
 * Where sockets may lie, the place for new ones first: $REPAGENT_RUNTIME_DIR and nothing else when that is set, else
 * $XDG_RUNTIME_DIR/repagent, /run/repagent for root, and repagent-UID in the temporary directory.
 */
export function runtimeDirs(env: Environment = process.env, uid: number = process.getuid?.() ?? 0): string[] {
  if (env.REPAGENT_RUNTIME_DIR) return [env.REPAGENT_RUNTIME_DIR];
  const dirs: string[] = [];
  if (env.XDG_RUNTIME_DIR) dirs.push(join(env.XDG_RUNTIME_DIR, 'repagent'));
  dirs.push(uid === 0 ? '/run/repagent' : join(tmpdir(), `repagent-${uid}`));
  return dirs;
}

/**
 * Makes the directory, for its owner alone.
 * @throws OperationError when it can't be made or belongs to someone else
 */
export function prepareRuntimeDir(dir: string): void {
  const hint = 'choose another place with --control unix:PATH';
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const found = lstatSync(dir);
    if (!found.isDirectory()) throw new OperationError(`${dir} is not a directory`, { hint });
    const uid = process.getuid?.();
    if (uid !== undefined && found.uid !== uid) {
      throw new OperationError(`the runtime directory ${dir} belongs to user ${found.uid}, not to ${uid}`, {
        hint,
      });
    }
    if ((found.mode & 0o077) !== 0) chmodSync(dir, 0o700);
  } catch (error) {
    if (error instanceof OperationError) throw error;
    throw new OperationError(`can't use the runtime directory ${dir}: ${errorMessage(error)}`, {
      hint,
      cause: error,
    });
  }
}

/** The control socket of this process in `dir`. */
export function ownSocketPath(dir: string, kind: ProcessKind, pid: number = process.pid): string {
  return join(dir, `${kind}-${pid}.sock`);
}

/** The processes that answer, in order of pid. Sockets that a killed process left behind are removed. */
export async function findProcesses(dirs: readonly string[] = runtimeDirs()): Promise<RunningProcess[]> {
  const found: RunningProcess[] = [];
  for (const dir of dirs) {
    for (const name of listDir(dir)) {
      const match = SOCKET_NAME.exec(name);
      if (!match) continue;
      const socketPath = join(dir, name);
      const state = await probeSocket(socketPath);
      if (state === 'stale') removeQuietly(socketPath);
      if (state === 'alive') found.push({ kind: match[1] as ProcessKind, pid: Number(match[2]), socketPath });
    }
  }
  return found.sort((a, b) => a.pid - b.pid);
}

/** `stale`: a socket that nobody accepts at, or nothing at all; `foreign`: a file that is no socket. */
export type SocketState = 'alive' | 'stale' | 'foreign';

/** Whether anyone accepts at a unix socket. */
export function probeSocket(path: string): Promise<SocketState> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return Promise.resolve('stale');
  // Connecting to a plain file is refused just as at a socket without a process.
  if (!found.isSocket()) return Promise.resolve('foreign');
  return new Promise((resolve) => {
    const socket = connect(path);
    const answer = (value: SocketState): void => {
      socket.destroy();
      resolve(value);
    };
    // A process that is stopped or too busy to accept is still there.
    socket.setTimeout(PROBE_TIMEOUT_MS, () => answer('alive'));
    socket.once('connect', () => answer('alive'));
    socket.once('error', (error) => {
      const code = errorCode(error);
      answer(code === 'ECONNREFUSED' || code === 'ENOENT' ? 'stale' : 'alive');
    });
  });
}

/** The names in `dir`; none when it is missing or someone else's, whose sockets are not to be trusted. */
function listDir(dir: string): string[] {
  try {
    const uid = process.getuid?.();
    if (uid !== undefined && lstatSync(dir).uid !== uid) return [];
    return readdirSync(dir);
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'EACCES') return [];
    throw error;
  }
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}
