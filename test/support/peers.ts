// Runs third-party programs (qemu-img, nbdcopy, fio ...) with deadlines, and ends them by their own pid.
// A program that is missing fails the test that wants it: nothing is ever skipped.
import { type ChildProcess, spawn } from 'node:child_process';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';

const INSTALLER = fileURLToPath(new URL('install-debian-peers.sh', import.meta.url));

/** The system's own folders come first: an interpreter that a user put into the PATH lacks Debian's modules. */
const PATH = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', process.env.PATH ?? ''].join(delimiter);

/** The last output shown in an error, characters. */
const SHOWN_OUTPUT = 8000;

export interface PeerOptions {
  /** Of the whole run, milliseconds. */
  readonly timeoutMs?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Given to standard input. */
  readonly input?: string;
}

export interface PeerResult {
  /** null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A program that runs until told to end. */
export interface Peer {
  readonly pid: number;
  readonly exited: Promise<PeerResult>;
  /** Everything on standard output, or standard error, until now. */
  stdout(): string;
  stderr(): string;
  /** Sends SIGTERM, after `graceMs` (10 s) SIGKILL, and waits for the end. */
  stop(graceMs?: number): Promise<PeerResult>;
  /** Sends SIGKILL and waits for the end. */
  kill(): Promise<PeerResult>;
  [Symbol.asyncDispose](): Promise<void>;
}

const living = new Set<ChildProcess>();
function killLiving(): void {
  for (const child of living) child.kill('SIGKILL');
}

process.on('exit', killLiving);
// A test runner's worker is killed without an exit event. Its global setup is no worker.
if (process.env.VITEST_WORKER_ID) (await import('vitest')).afterAll(killLiving);

/** Starts `program`. @throws Error, from `exited`, when there is no such program */
export function startPeer(program: string, args: readonly string[], options: PeerOptions = {}): Peer {
  const child = spawn(program, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', PATH, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  living.add(child);
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin.on('error', () => {}); // it may end without reading
  child.stdin.end(options.input ?? '');
  const stdout = (): string => Buffer.concat(out).toString('utf8');
  const stderr = (): string => Buffer.concat(err).toString('utf8');
  const exited = new Promise<PeerResult>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      living.delete(child);
      reject(
        error.code === 'ENOENT' ? new Error(`${program} is not installed; run ${INSTALLER} --guest`) : error,
      );
    });
    child.once('close', (code, signal) => {
      living.delete(child);
      resolve({ code, signal, stdout: stdout(), stderr: stderr() });
    });
  });
  exited.catch(() => {}); // whoever waits for it hears of it
  const kill = (): Promise<PeerResult> => {
    child.kill('SIGKILL');
    return exited;
  };
  const stop = async (graceMs = 10_000): Promise<PeerResult> => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    try {
      return await exited;
    } finally {
      clearTimeout(timer);
    }
  };
  return {
    pid: child.pid ?? -1,
    exited,
    stdout,
    stderr,
    stop,
    kill,
    [Symbol.asyncDispose]: async () => void (await stop()),
  };
}

/** Runs `program` to its end, whatever its exit code. @throws Error when it lasts longer than `timeoutMs` (60 s) */
export async function runPeer(
  program: string,
  args: readonly string[],
  options: PeerOptions = {},
): Promise<PeerResult> {
  const peer = startPeer(program, args, options);
  const timeoutMs = options.timeoutMs ?? 60_000;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    void peer.kill();
  }, timeoutMs);
  try {
    const result = await peer.exited;
    if (late) throw new Error(describe(program, args, result, `did not end within ${timeoutMs} ms`));
    return result;
  } finally {
    clearTimeout(timer);
  }
}

/** Runs `program` and returns its standard output. @throws Error with all its output unless it exits with 0 */
export async function runPeerOk(
  program: string,
  args: readonly string[],
  options: PeerOptions = {},
): Promise<string> {
  const result = await runPeer(program, args, options);
  if (result.code !== 0) {
    throw new Error(describe(program, args, result, `ended with ${result.code ?? result.signal}`));
  }
  return result.stdout;
}

function describe(program: string, args: readonly string[], result: PeerResult, what: string): string {
  const output = `${result.stdout}\n${result.stderr}`.trim().slice(-SHOWN_OUTPUT);
  return `${program} ${args.join(' ')}\n${what}:\n${output}`;
}
