// The processes of a bench run. None may outlive it: they are ended by their own pid, when the run ends, when this
// process exits, and by the kernel should it be killed.
import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { basename, delimiter, join } from 'node:path';
import { errorMessage, OperationError } from '../base/errors.ts';
import { deferred, within } from '../base/lifecycle.ts';

const STOP_TIMEOUT_MS = 10_000;
/** The end of a process's output that an error shows, characters. */
const SHOWN_CHARACTERS = 2000;
/** Output that is kept, characters. */
const KEPT_CHARACTERS = 8 * 1024 * 1024;

/** Debian keeps some servers where only root's PATH leads. A PATH that was cut down on purpose stays as it is. */
const given = (process.env.PATH ?? '').split(delimiter);
const PATH = [
  ...given,
  ...(given.includes('/usr/bin') ? ['/usr/local/sbin', '/usr/sbin', '/sbin'] : []),
].join(delimiter);

/** Where a program is, or undefined. */
export function findProgram(name: string): string | undefined {
  const candidates = name.includes('/') ? [name] : PATH.split(delimiter).map((folder) => join(folder, name));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return path !== '';
    } catch {
      return false;
    }
  });
}

export interface ProcessSettings {
  /** Beside what this process has. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Only root may choose: the process gives its own rights up. */
  readonly userId?: number;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Child {
  readonly pid: number;
  readonly exited: Promise<Exit>;
  readonly hasExited: boolean;
  stdout(): string;
  /** The end of what it said on standard error and output. */
  tail(): string;
  /** The first line of standard output; rejects when the process ends before, or takes too long. */
  firstLine(timeoutMs: number): Promise<string>;
  signal(name: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL. Never rejects. */
  stop(): Promise<void>;
}

export class Children {
  readonly #living = new Set<ChildProcess>();
  /** Ends what is no child of ours any more: daemons. */
  readonly #others = new Set<() => void>();
  readonly #onExit = (): void => this.killAll();
  readonly #wrapper = process.platform === 'linux' ? findProgram('setpriv') : undefined;
  #closed = false;

  constructor() {
    process.on('exit', this.#onExit);
  }

  /** @throws OperationError when the run has been ended, or the program can't be started */
  start(program: string, args: readonly string[], settings: ProcessSettings = {}): Child {
    if (this.#closed) throw new OperationError('the bench is being stopped');
    const path = findProgram(program);
    if (path === undefined) throw new OperationError(`${program} is not installed`);
    const { env, cwd, userId } = settings;
    const [command, ...rest] = [...this.#wrapping(userId), path, ...args];
    const child = spawn(command!, rest, {
      ...{ stdio: ['ignore', 'pipe', 'pipe'], cwd },
      env: { ...process.env, LC_ALL: 'C', PATH, ...env },
    });
    this.#living.add(child);
    return this.#watch(program, child);
  }

  /** Runs a program to its end. @throws OperationError with its last words unless it exits with 0 in time */
  async run(
    program: string,
    args: readonly string[],
    timeoutMs: number,
    settings: ProcessSettings = {},
  ): Promise<string> {
    const child = this.start(program, args, settings);
    const exit = await within(child.exited, timeoutMs);
    if (exit?.code === 0) return child.stdout();
    const how =
      exit === undefined ? `did not end within ${timeoutMs} ms` : `ended with ${exit.code ?? exit.signal}`;
    if (exit === undefined) await child.stop();
    throw new OperationError(`${program} ${how}: ${child.tail()}`);
  }

  /** Has `kill` called should the run end early. @returns what withdraws it */
  onKill(kill: () => void): () => void {
    this.#others.add(kill);
    return () => this.#others.delete(kill);
  }

  /** SIGKILL to everything; nothing can be started afterwards. Synchronous, for the moment of exiting. */
  killAll(): void {
    this.#closed = true;
    for (const child of this.#living) child.kill('SIGKILL');
    for (const kill of this.#others) kill();
    this.#others.clear();
  }

  close(): void {
    this.killAll();
    process.off('exit', this.#onExit);
  }

  /** What has a process ended by the kernel when we are killed without a chance to clean up, and gives it its user. */
  #wrapping(userId: number | undefined): string[] {
    if (this.#wrapper === undefined) {
      if (userId === undefined) return [];
      throw new OperationError('setpriv is not installed, and root needs it to run a client as another user');
    }
    const user =
      userId === undefined ? [] : ['--reuid', String(userId), '--regid', String(userId), '--clear-groups'];
    return [this.#wrapper, ...user, '--pdeathsig', 'KILL', '--'];
  }

  #watch(program: string, child: ChildProcess): Child {
    let out = '';
    let err = '';
    let exit: Exit | undefined;
    const ended = deferred<Exit>();
    const line = deferred<string>();
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      if (out.length < KEPT_CHARACTERS) out += text;
      const end = out.indexOf('\n');
      if (end !== -1) line.resolve(out.slice(0, end));
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      err = (err + text).slice(-SHOWN_CHARACTERS);
    });
    child.once('error', (error) => {
      err += errorMessage(error);
    });
    child.once('close', (code, signal) => {
      this.#living.delete(child);
      exit = { code, signal };
      ended.resolve(exit);
    });
    const tail = (): string => err.trim() || out.slice(-SHOWN_CHARACTERS).trim();
    const died = ended.promise.then(() => undefined);
    return {
      pid: child.pid ?? -1,
      exited: ended.promise,
      get hasExited() {
        return exit !== undefined;
      },
      stdout: () => out,
      tail,
      firstLine: async (timeoutMs) => {
        const first = await within(Promise.race([line.promise, died]), timeoutMs);
        if (first === undefined) throw new OperationError(`${basename(program)} did not start: ${tail()}`);
        return first;
      },
      signal: (name) => void child.kill(name),
      stop: async () => {
        child.kill('SIGTERM');
        if ((await within(ended.promise, STOP_TIMEOUT_MS)) === undefined) {
          child.kill('SIGKILL');
          await ended.promise;
        }
      },
    };
  }
}
