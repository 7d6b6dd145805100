// A guest that writes one block after another at a pace, remembers where, and how long its disk took to answer.
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';

const BLOCK_BYTES = 4096;

export interface PacedGuestOptions {
  readonly uri: string;
  /** Where it writes: chunks [first, end), one block somewhere in each, again and again. */
  readonly firstChunk: number;
  readonly endChunk: number;
  readonly chunkBytes: number;
  /** Between an answer and the next write, ms. */
  readonly paceMs: number;
}

export class PacedGuest {
  /** Those that it wrote into. */
  readonly chunks = new Set<number>();
  readonly latenciesMs: number[] = [];
  readonly #options: PacedGuestOptions;
  readonly #running: Promise<void>;
  #isStopped = false;

  constructor(options: PacedGuestOptions) {
    this.#options = options;
    this.#running = this.#run();
    this.#running.catch(() => {}); // stop() tells
  }

  get medianMs(): number {
    return this.latenciesMs.toSorted((a, b) => a - b)[Math.floor(this.latenciesMs.length / 2)] ?? 0;
  }

  get longestMs(): number {
    return Math.max(0, ...this.latenciesMs);
  }

  /** @throws Error when a write had failed */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    const { uri, firstChunk, endChunk, chunkBytes, paceMs } = this.#options;
    const disk = await openNbdDevice(uri, { logger: silentLogger });
    try {
      for (let i = 0; !this.#isStopped; i += 1) {
        const chunk = firstChunk + (i % (endChunk - firstChunk));
        const block = i % (chunkBytes / BLOCK_BYTES);
        this.chunks.add(chunk);
        const askedAt = performance.now();
        await disk.write(chunk * chunkBytes + block * BLOCK_BYTES, randomBytes(BLOCK_BYTES), false);
        this.latenciesMs.push(performance.now() - askedAt);
        await pause(paceMs);
      }
    } finally {
      await disk.close();
    }
  }
}
