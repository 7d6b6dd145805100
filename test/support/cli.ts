// Runs the built command line (dist/cli/main.js) as real child processes and stops them by their own pid.
// Sockets in the runtime directory and durable state go to a temporary folder of this test process, never the user's.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The built program; `npm run build` makes it. */
export const CLI_PATH = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface ExitInfo {
  /** null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface CliResult extends ExitInfo {
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  /** Added to the environment; undefined removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** A program that becomes ours, with the arguments that come before: `nsenter --net=...`. */
  readonly through?: readonly string[] | undefined;
  /** For runCli: the whole run. For startServe and startHub: until the `listening` line. Milliseconds. */
  readonly timeoutMs?: number;
  /** runCli: given to standard input. */
  readonly input?: string;
}

/** A running `repagent serve` or `repagent hub`. */
export interface CliProcess {
  readonly pid: number;
  /** The URLs of the `listening` line. */
  readonly urls: readonly string[];
  /** Of the first TCP listener; '' and 0 when there is none. */
  readonly host: string;
  readonly port: number;
  /** The socket path of the first unix listener; '' when there is none. */
  readonly unixPath: string;
  /** Names in `exports=`; empty for a hub. */
  readonly exports: readonly string[];
  /** For `--control` of status, wait and verify; right unless `args` say `--control`. */
  readonly control: string;
  readonly exited: Promise<ExitInfo>;
  /** SIGTERM, then waits for the end; SIGKILL and an error when that takes longer than `timeoutMs` (15 s). */
  stop(timeoutMs?: number): Promise<ExitInfo>;
  /** SIGKILL, then waits for the end. */
  kill(): Promise<ExitInfo>;
  signal(name: NodeJS.Signals): void;
  /** Everything on standard error until now: the log as JSON lines. */
  logs(): string;
  /** Everything on standard output until now. */
  stdout(): string;
  /** stop(), for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Where the processes of this harness keep control sockets and state; removed when the test process exits. */
export const scratchDir: string = mkdtempSync(join(tmpdir(), 'repagent-test-'));

/** Where `status`, `wait` and `verify` find the processes of this harness. */
export const runtimeDir: string = join(scratchDir, 'run');

const living = new Set<ChildProcess>();

function cleanUp(): void {
  for (const child of living) child.kill('SIGKILL');
  rmSync(scratchDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
}

process.on('exit', cleanUp);
// A test runner's worker is killed without an exit event.
if (process.env.VITEST) (await import('vitest')).afterAll(cleanUp);

/** Starts `repagent serve ARGS`, on a free loopback port unless `args` say `--listen`, and waits until it accepts. */
export function startServe(args: readonly string[], options: CliOptions = {}): Promise<CliProcess> {
  return startListening('serve', args, options);
}

/** Starts `repagent hub ARGS`, on a free loopback port unless `args` say `--listen`, and waits until it accepts. */
export function startHub(args: readonly string[], options: CliOptions = {}): Promise<CliProcess> {
  return startListening('hub', args, options);
}

/** Runs `repagent ARGS` to its end. Rejects only when it doesn't end within `timeoutMs` (60 s). */
export async function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const run = launch(args, options);
  run.child.stdin?.end(options.input ?? '');
  const timeoutMs = options.timeoutMs ?? 60_000;
  const exit = await deadline(run.exited, timeoutMs);
  if (!exit) {
    run.child.kill('SIGKILL');
    await run.exited;
    throw new Error(`repagent ${args.join(' ')} did not end within ${timeoutMs} ms\n${run.output()}`);
  }
  return { ...exit, stdout: run.stdout(), stderr: run.stderr() };
}

interface Launched {
  readonly child: ChildProcess;
  readonly exited: Promise<ExitInfo>;
  stdout(): string;
  stderr(): string;
  output(): string;
}

function launch(args: readonly string[], options: CliOptions): Launched {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    REPAGENT_RUNTIME_DIR: runtimeDir,
    XDG_STATE_HOME: join(scratchDir, 'state'),
    ...options.env,
  };
  for (const [name, value] of Object.entries(env)) if (value === undefined) delete env[name];
  const [program, ...words] = [...(options.through ?? []), process.execPath, CLI_PATH, ...args];
  const child = spawn(program!, words, {
    env,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  living.add(child);
  child.stdin?.on('error', () => {});
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
  const exited = new Promise<ExitInfo>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      living.delete(child);
      resolve({ code, signal });
    });
  });
  const stdout = (): string => Buffer.concat(out).toString('utf8');
  const stderr = (): string => Buffer.concat(err).toString('utf8');
  return {
    child,
    exited,
    stdout,
    stderr,
    output: () => `stdout:\n${stdout()}\nstderr:\n${stderr()}`,
  };
}

async function startListening(
  command: 'serve' | 'hub',
  args: readonly string[],
  options: CliOptions,
): Promise<CliProcess> {
  const listens = args.some((arg) => arg === '--listen' || arg.startsWith('--listen='));
  const run = launch([command, ...args, ...(listens ? [] : ['--listen', '127.0.0.1:0'])], options);
  run.child.stdin?.end();
  const timeoutMs = options.timeoutMs ?? 30_000;
  const line = await deadline(firstLine(run), timeoutMs);
  if (!line?.startsWith('listening ')) {
    run.child.kill('SIGKILL');
    const exit = await run.exited;
    const what = line === undefined ? `did not listen within ${timeoutMs} ms` : `ended (code ${exit.code})`;
    throw new Error(`repagent ${command} ${args.join(' ')} ${what}\n${run.output()}`);
  }
  return toProcess(command, line, run, options);
}

/** The first line of standard output; '' when the process ended without one. */
function firstLine(run: Launched): Promise<string> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const text = run.stdout();
      const end = text.indexOf('\n');
      if (end !== -1) resolve(text.slice(0, end));
    };
    run.child.stdout?.on('data', look);
    run.exited.then(() => resolve(''), reject);
  });
}

function toProcess(command: 'serve' | 'hub', line: string, run: Launched, options: CliOptions): CliProcess {
  const pid = run.child.pid!;
  const words = line.split(' ').slice(1);
  const urls = words.filter((word) => word.includes('://'));
  const tcp = urls.map((url) => new URL(url)).find((url) => url.port !== '');
  const unix = urls.find((url) => url.includes('+unix:'));
  const names = words.find((word) => word.startsWith('exports='))?.slice('exports='.length);
  const dir = options.env?.REPAGENT_RUNTIME_DIR ?? runtimeDir;

  async function kill(): Promise<ExitInfo> {
    run.child.kill('SIGKILL');
    return run.exited;
  }

  async function stop(stopTimeoutMs = 15_000): Promise<ExitInfo> {
    run.child.kill('SIGTERM');
    const exit = await deadline(run.exited, stopTimeoutMs);
    if (exit) return exit;
    await kill();
    throw new Error(`repagent ${command} did not stop within ${stopTimeoutMs} ms\n${run.output()}`);
  }

  return {
    pid,
    urls,
    host: tcp?.hostname.replace(/^\[|\]$/g, '') ?? '',
    port: tcp ? Number(tcp.port) : 0,
    unixPath: unix ? (new URL(unix).searchParams.get('socket') ?? '') : '',
    exports: names ? names.split(',').map(decodeURIComponent) : [],
    control: `unix:${join(dir, `${command}-${pid}.sock`)}`,
    exited: run.exited,
    stop,
    kill,
    signal: (name) => void run.child.kill(name),
    logs: run.stderr,
    stdout: run.stdout,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}

/** `promise`'s value, or undefined once `timeoutMs` have passed. */
async function deadline<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
