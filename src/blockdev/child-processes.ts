// Child processes that must not outlive this one. A signal only ever goes to a child of ours that is known to run.
import type { ChildProcess } from 'node:child_process';

const cleanups = new Set<() => void>();

/** Runs `cleanup`, which has to be synchronous, should this process exit. @returns a function that takes it back */
export function atProcessExit(cleanup: () => void): () => void {
  if (cleanups.size === 0) process.on('exit', runCleanups);
  cleanups.add(cleanup);
  return () => {
    cleanups.delete(cleanup);
    if (cleanups.size === 0) process.off('exit', runCleanups);
  };
}

function runCleanups(): void {
  for (const cleanup of cleanups) {
    try {
      cleanup();
    } catch {
      // The process is ending; the other cleanups still get their turn.
    }
  }
}

/** The last bytes of a child's standard error, which say why it ended. */
export class StderrTail {
  readonly #limitBytes: number;
  #tail = Buffer.alloc(0);

  constructor(child: ChildProcess, limitBytes = 4096) {
    this.#limitBytes = limitBytes;
    child.stderr?.on('data', (chunk: Buffer) => {
      const joined = Buffer.concat([this.#tail, chunk.subarray(-this.#limitBytes)]);
      this.#tail = Buffer.from(joined.subarray(-this.#limitBytes));
    });
    child.stderr?.on('error', () => {});
  }

  /** Its text, lines joined by `; `. */
  get text(): string {
    const lines = this.#tail.toString('utf8').split('\n');
    return lines
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .join('; ');
  }
}
