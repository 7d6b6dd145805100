// What the demo leaves nothing of: a temporary folder, and child processes that run this program's own commands.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OperationError } from '../../base/errors.ts';
import { deferred, within } from '../../base/lifecycle.ts';
import type { ControlAddress } from '../../control/address.ts';
import { ownSocketPath, type ProcessKind } from '../../control/runtime-dir.ts';

const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 15_000;
const LOG_TAIL_LINES = 8;

/** A running `repagent serve` or `repagent hub`. */
export interface Service {
  /** The URL of its `listening` line. */
  readonly url: string;
  readonly control: ControlAddress;
  /** SIGTERM. @throws OperationError when it doesn't end in order */
  stop(): Promise<void>;
  /** SIGKILL: a crash. */
  crash(): Promise<void>;
}

export class Workspace {
  readonly dir: string = mkdtempSync(join(tmpdir(), 'repagent-demo-'));
  readonly #children = new Set<ChildProcess>();
  readonly #runtimeDir = join(this.dir, 'run');

  path(name: string): string {
    return join(this.dir, name);
  }

  /** Starts a command of this program and waits until it listens. @throws OperationError with the end of its log */
  async start(kind: ProcessKind, args: readonly string[]): Promise<Service> {
    const logPath = this.path(`${kind}.log`);
    const log = openSync(logPath, 'a');
    const main = fileURLToPath(new URL('../main.js', import.meta.url));
    const child = spawn(process.execPath, [main, kind, ...args], {
      env: { ...process.env, REPAGENT_RUNTIME_DIR: this.#runtimeDir },
      stdio: ['ignore', 'pipe', log],
    });
    closeSync(log);
    this.#children.add(child);
    const ended = deferred<number | null>();
    child.once('error', ended.reject);
    child.once('exit', (code) => {
      this.#children.delete(child);
      ended.resolve(code);
    });
    const line = await within(
      Promise.race([firstLine(child), ended.promise.then(() => '')]),
      START_TIMEOUT_MS,
    );
    if (!line?.startsWith('listening ')) {
      throw new OperationError(`repagent ${kind} did not start; the end of its log:\n${logTail(logPath)}`);
    }
    return {
      url: line.split(' ')[1]!,
      control: { kind: 'unix', path: ownSocketPath(this.#runtimeDir, kind, child.pid) },
      stop: async () => {
        child.kill('SIGTERM');
        const code = await within(ended.promise, STOP_TIMEOUT_MS);
        if (code === 0) return;
        const how = code === undefined ? 'did not stop' : `ended with status ${code}`;
        throw new OperationError(`repagent ${kind} ${how}; the end of its log:\n${logTail(logPath)}`);
      },
      crash: async () => {
        child.kill('SIGKILL');
        await ended.promise;
      },
    };
  }

  /** Ends what still runs and removes every file. Synchronous, so that it also works while the process exits. */
  remove(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end !== -1) resolve(text.slice(0, end));
    });
  });
}

function logTail(path: string): string {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.slice(-LOG_TAIL_LINES).join('\n');
}
