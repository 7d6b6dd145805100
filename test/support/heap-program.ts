// A program whose heap a test watches: started with a young generation so large that nothing is collected unless asked,
// and asked on its standard input what its heap holds.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const FLAGS = ['--expose-gc', '--max-semi-space-size=512', '--min-semi-space-size=512'];

export interface HeapLook {
  readonly usedBytes: number;
  readonly collections: number;
  /** A mirrored server's: of its volume, and how often the queue was full. */
  readonly state?: string;
  readonly dirtyBytes?: number;
  readonly overflows?: number;
}

export class HeapProgram {
  /** Where it listens. */
  readonly port: number;
  readonly #child: ChildProcess;
  readonly #next: () => Promise<string>;

  private constructor(child: ChildProcess, next: () => Promise<string>, port: number) {
    this.#child = child;
    this.#next = next;
    this.port = port;
  }

  /** @param file of test/support */
  static async start(file: string, args: readonly string[]): Promise<HeapProgram> {
    const path = fileURLToPath(new URL(file, import.meta.url));
    const child = spawn(process.execPath, [...FLAGS, path, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<string> => String((await lines.next()).value);
    return new HeapProgram(child, next, Number(await next()));
  }

  /** @param what `gc` collects everything first */
  async ask(what: 'gc' | 'look'): Promise<HeapLook> {
    this.#child.stdin!.write(`${what}\n`);
    return JSON.parse(await this.#next()) as HeapLook;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
