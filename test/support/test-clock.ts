// The wall clock of one process that the test starts, which the test sets while it runs and between its lives.
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { CliOptions, CliProcess } from './cli.ts';
import { waitUntil } from './wait-until.ts';

const PRELOAD = fileURLToPath(new URL('shifted-clock.mjs', import.meta.url));

export class TestClock {
  readonly #file: string;
  offsetMs = 0;

  /** @param file a path that nobody else uses */
  constructor(file: string) {
    this.#file = file;
    fs.writeFileSync(file, '0');
  }

  /** For the process whose clock it is to be. */
  get options(): CliOptions {
    return { env: { NODE_OPTIONS: `--import ${PRELOAD}`, TEST_CLOCK: this.#file } };
  }

  /** Sets the clock, ms beside the machine's; resolves when the process goes by it. */
  async set(offsetMs: number, process: CliProcess): Promise<void> {
    this.offsetMs = offsetMs;
    fs.writeFileSync(this.#file, String(offsetMs));
    process.signal('SIGUSR2');
    const seen = `${this.#file}.${process.pid}`;
    await waitUntil(() => fs.readFileSync(seen, 'utf8') === String(offsetMs), {
      what: 'a clock that is set',
    });
  }
}
