// A network between two machines that don't exist: two namespaces, joined by a line that a test delays, narrows, lets
// lose packets, and cuts without a word to anybody. Needs a Linux that lets this user have namespaces and a tun device;
// elsewhere start() says what is missing.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { scratchDir } from './cli.ts';

const SOURCE = fileURLToPath(new URL('wan.c', import.meta.url));

/** After that the program is given up. */
const ANSWER_TIMEOUT_MS = 10_000;

export type Side = 'agent' | 'hub';

const SIDES = ['agent', 'hub'] as const satisfies readonly Side[];

/** The address of each side, for the other. */
export const WAN_ADDRESS: Readonly<Record<Side, string>> = { agent: '192.0.2.1', hub: '192.0.2.2' };

/** What the line from one side does to the packets of that side. */
export interface LineSettings {
  readonly delayMs?: number;
  /** The part that is lost, 0 to 1. */
  readonly loss?: number;
  /** 0: as fast as it can. */
  readonly bytesPerSecond?: number;
  /** Everything is lost, also what was on its way. */
  readonly isCut?: boolean;
}

export interface WanCounts {
  readonly passed: number;
  readonly lost: number;
}

/** The program ended, for reasons of the machine. */
class NoWan extends Error {}

export class Wan implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #waiting: Array<(line: string | undefined) => void> = [];
  readonly #entries: Record<Side, readonly string[]> = { agent: [], hub: [] };
  #errors = '';
  #buffered = '';
  #isOver = false;

  private constructor(program: string, seed: number) {
    this.#child = spawn(program, [String(seed)], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#heard(text));
    this.#child.stderr?.on('data', (text: Buffer) => {
      this.#errors += text.toString();
    });
    this.#child.stdin?.on('error', () => {});
    this.#child.once('close', () => {
      this.#isOver = true;
      for (const wake of this.#waiting.splice(0)) wake(undefined);
    });
  }

  /** @param seed chooses which packets are lost @throws Error that says what this machine doesn't let it have */
  static async start(seed: number): Promise<Wan> {
    return Wan.#run(await compiled(), seed);
  }

  /** What this machine lacks; undefined when there can be one. @throws Error without a C compiler, which can be had */
  static async missing(): Promise<string | undefined> {
    const program = await compiled();
    try {
      await using _ = await Wan.#run(program, 0);
      return undefined;
    } catch (error) {
      if (error instanceof NoWan) return error.message;
      throw error;
    }
  }

  static async #run(program: string, seed: number): Promise<Wan> {
    const wan = new Wan(program, seed);
    const [word, agent, hub] = (await wan.#nextLine()).split(' ');
    if (word !== 'ready' || !agent || !hub) throw new Error(`wan said ${word}`);
    wan.#entries.agent = ['nsenter', ...agent.split(',')];
    wan.#entries.hub = ['nsenter', ...hub.split(',')];
    return wan;
  }

  /** Begins a command line of a program that is to run on that side. */
  through(side: Side): readonly string[] {
    return this.#entries[side];
  }

  /** The line from `side` is like that from now on. */
  async line(side: Side, settings: LineSettings): Promise<void> {
    const { delayMs = 0, loss = 0, bytesPerSecond = 0, isCut = false } = settings;
    const values = [delayMs * 1000, loss * 1e6, bytesPerSecond, isCut ? 1 : 0];
    await this.#tell(`line ${SIDES.indexOf(side)} ${values.map(Math.round).join(' ')}`);
  }

  /** Both lines. */
  async both(settings: LineSettings): Promise<void> {
    for (const side of SIDES) await this.line(side, settings);
  }

  /** Takes the network device of a side down, or up again. */
  async link(side: Side, isUp: boolean): Promise<void> {
    await this.#tell(`link ${SIDES.indexOf(side)} ${isUp ? 1 : 0}`);
  }

  /** Packets of each side, so far. */
  async counts(): Promise<Record<Side, WanCounts>> {
    const [passed = 0, lost = 0, hubPassed = 0, hubLost = 0] = await this.#tell('count');
    return { agent: { passed, lost }, hub: { passed: hubPassed, lost: hubLost } };
  }

  /** The namespaces are gone once those who entered them have ended too. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isOver) return;
    const closed = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.kill('SIGKILL');
    await closed;
  }

  async #tell(command: string): Promise<number[]> {
    this.#child.stdin?.write(`${command}\n`);
    const [word, ...numbers] = (await this.#nextLine()).split(' ');
    if (word !== 'ok') throw new Error(`wan answered ${command} with ${word}`);
    return numbers.map(Number);
  }

  #heard(text: string): void {
    const lines = `${this.#buffered}${text}`.split('\n');
    this.#buffered = lines.pop() ?? '';
    for (const line of lines) {
      const wake = this.#waiting.shift();
      if (wake) wake(line);
      else this.#lines.push(line);
    }
  }

  async #nextLine(): Promise<string> {
    const heard = this.#lines.shift();
    if (heard !== undefined) return heard;
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), ANSWER_TIMEOUT_MS);
    const line = this.#isOver
      ? undefined
      : await new Promise<string | undefined>((resolve) => this.#waiting.push(resolve));
    clearTimeout(timer);
    if (line === undefined) throw new NoWan(this.#errors.trim());
    return line;
  }
}

let program: Promise<string> | undefined;

/** Made once, without holding up whoever else is tested meanwhile. */
function compiled(): Promise<string> {
  program ??= compile(join(scratchDir, 'wan'));
  return program;
}

async function compile(file: string): Promise<string> {
  const args = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-o', file, SOURCE];
  await promisify(execFile)('cc', args);
  return file;
}
