// A qemu-nbd of our own on a private unix socket: started, awaited, watched and stopped. It serves one image to one
// client, this process, and must never be left behind: not persistent, it ends by itself when its client is gone,
// even one that was killed.
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { type Deferred, deferred, within } from '../base/lifecycle.ts';
import type { Logger } from '../base/log.ts';
import { atProcessExit, StderrTail } from './child-processes.ts';

export interface QemuNbdOptions {
  readonly path: string;
  readonly format: string;
  readonly readOnly: boolean;
  readonly logger: Logger;
  /** The program, for tests. Default `qemu-nbd`, found by PATH. */
  readonly program?: string;
  /** How long it may take until it accepts connections, milliseconds. */
  readonly startTimeoutMs?: number;
}

export const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 20_000;
/** How long one that hung up may take to say why and end, milliseconds. */
const LAST_WORDS_MS = 2000;
const GOOD_END = 'status 0';
const PROBE_INTERVAL_MS = 10;
/** Bytes of a unix socket's path that every kernel takes. */
const MAX_SOCKET_PATH_BYTES = 103;

export class QemuNbdProcess {
  readonly socketPath: string;
  readonly #directory: string;
  readonly #child: ChildProcess;
  readonly #stderr: StderrTail;
  readonly #options: QemuNbdOptions;
  readonly #ended: Deferred<void> = deferred();
  readonly #forgetExit: () => void;
  #running = true;
  /** Its end is expected, or told by an error that is thrown: no matter for the log. */
  #quiet = true;
  #end = '';
  #startError: Error | undefined;

  private constructor(options: QemuNbdOptions, directory: string) {
    this.#options = options;
    this.#directory = directory;
    this.socketPath = path.join(directory, 'nbd.sock');
    // A session of its own: Ctrl-C in a terminal must not end it before this process has drained.
    this.#child = spawn(options.program ?? 'qemu-nbd', commandLine(options, this.socketPath), {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    });
    this.#stderr = new StderrTail(this.#child);
    this.#child.on('error', (error) => {
      this.#startError = error;
      if (this.#child.pid === undefined) this.#hasEnded('could not be started');
    });
    // 'close' and not 'exit': the whole of standard error has been read then.
    this.#child.on('close', (code, signal) =>
      this.#hasEnded(signal ? `signal ${signal}` : `status ${code ?? 0}`),
    );
    this.#forgetExit = atProcessExit(() => {
      this.#child.kill('SIGTERM');
      fs.rmSync(directory, { recursive: true, force: true });
    });
  }

  /**
   * Starts it and waits until it accepts connections. That is not the end of the matter: it listens before it opens
   * the image, so whoever connects and fails asks {@link openFailure}.
   * @throws OperationError with what qemu-nbd said
   */
  static async start(options: QemuNbdOptions): Promise<QemuNbdProcess> {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'repagent-qemu-'));
    const socketBytes = Buffer.byteLength(path.join(directory, 'nbd.sock'));
    if (socketBytes > MAX_SOCKET_PATH_BYTES) {
      fs.rmSync(directory, { recursive: true, force: true });
      throw new OperationError(`${os.tmpdir()} is too long a path for a unix socket`, {
        hint: 'set TMPDIR to a shorter one, such as /tmp',
      });
    }
    const process = new QemuNbdProcess(options, directory);
    try {
      await process.#waitUntilReady(options.startTimeoutMs ?? START_TIMEOUT_MS);
      return process;
    } catch (error) {
      await process.stop();
      throw error;
    }
  }

  /** The child's process id; undefined when it could not be started. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Why it is gone, as a message; undefined while it runs. */
  get failure(): string | undefined {
    if (this.#running) return undefined;
    const said = this.#stderr.text;
    return `qemu-nbd for ${this.#options.path} ended (${this.#end})${said === '' ? '' : `: ${said}`}`;
  }

  /** The image is open: from now on an end that nobody asked for is an error in the log. */
  watch(): void {
    this.#quiet = false;
    if (!this.#running) this.#options.logger.error({ image: this.#options.path }, this.failure);
  }

  /** What to tell when connecting failed with `error`: the process's own reason, if it fails as well. */
  async openFailure(error: unknown): Promise<unknown> {
    const ended = await this.#endsWithin(LAST_WORDS_MS);
    // One that ends well has only seen its client go.
    return ended && this.#end !== GOOD_END ? this.#startFailure() : error;
  }

  /** Ends it, waits, and removes what it left. Whoever uses it has closed before. Idempotent. */
  async stop(): Promise<void> {
    this.#quiet = true;
    if (this.#running) this.#child.kill('SIGTERM');
    if (this.#running && !(await this.#endsWithin(STOP_TIMEOUT_MS))) {
      this.#options.logger.error({ pid: this.pid }, 'qemu-nbd does not end; killing it');
      this.#child.kill('SIGKILL');
      await this.#ended.promise;
    }
    this.#forgetExit();
    fs.rmSync(this.#directory, { recursive: true, force: true });
  }

  #hasEnded(how: string): void {
    if (!this.#running) return;
    this.#running = false;
    this.#end = how;
    if (!this.#quiet) this.#options.logger.error({ image: this.#options.path }, this.failure);
    this.#ended.resolve();
  }

  async #endsWithin(timeoutMs: number): Promise<boolean> {
    await within(this.#ended.promise, timeoutMs);
    return !this.#running;
  }

  async #waitUntilReady(timeoutMs: number): Promise<void> {
    const endsAt = performance.now() + timeoutMs;
    while (!(await accepts(this.socketPath))) {
      if (performance.now() > endsAt) {
        throw new OperationError(`qemu-nbd does not come up for ${this.#options.path} in ${timeoutMs} ms`);
      }
      await this.#endsWithin(PROBE_INTERVAL_MS);
      if (!this.#running) throw this.#startFailure();
    }
  }

  #startFailure(): OperationError {
    const { path: image, format, program = 'qemu-nbd' } = this.#options;
    if (this.#startError) {
      if (errorCode(this.#startError) === 'ENOENT') {
        return new OperationError(`${program} not found, which --format ${format} needs`, {
          hint: 'apt-get install qemu-utils',
        });
      }
      return new OperationError(`cannot start ${program}: ${errorMessage(this.#startError)}`);
    }
    const said = this.#stderr.text || `it ended with ${this.#end}`;
    const hint = /lock/i.test(said)
      ? 'another program has the image open; stop it first'
      : `qemu-img info ${image} tells what the image is`;
    return new OperationError(`qemu-nbd cannot open ${image} as ${format}: ${said}`, { hint });
  }
}

function commandLine(options: QemuNbdOptions, socketPath: string): string[] {
  return [
    `--format=${options.format}`,
    `--socket=${socketPath}`,
    '--shared=0',
    '--discard=unmap',
    '--detect-zeroes=off',
    ...(options.readOnly ? ['--read-only'] : []),
    // Absolute, so that no colon or dash in a name is taken for a protocol or an option.
    path.resolve(options.path),
  ];
}

/** Whether someone accepts connections on a unix socket. One that hangs up before the handshake is none to qemu-nbd. */
function accepts(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(socketPath);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
