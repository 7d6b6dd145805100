// Stands for the VM: writes over NBD all the time, in small random pieces, and knows how long its slowest write took.
// A write that fails ends the demo.
import { randomFillSync, randomInt } from 'node:crypto';
import { deferred } from '../../base/lifecycle.ts';
import { KiB, SECTOR_BYTES } from '../../base/limits.ts';
import type { BlockDevice } from '../../blockdev/block-device.ts';

const BATCH_WRITES = 8;
const BATCH_INTERVAL_MS = 10;
const MAX_WRITE_BYTES = 64 * KiB;
const BATCHES_PER_FLUSH = 50;

export interface WriterFigures {
  readonly writes: number;
  readonly bytes: number;
  readonly slowestMs: number;
}

export class DemoWriter {
  readonly #device: BlockDevice;
  readonly #source = randomFillSync(Buffer.allocUnsafe(2 * MAX_WRITE_BYTES));
  readonly #failure = deferred<never>();
  #running: Promise<void> | undefined;
  #stopping = false;
  #writes = 0;
  #bytes = 0;
  #slowestMs = 0;

  constructor(device: BlockDevice) {
    this.#device = device;
    // Whoever waits for `failed` sees the error; nobody waiting is no error.
    this.#failure.promise.catch(() => {});
  }

  /** Rejects when a write fails; never resolves. */
  get failed(): Promise<never> {
    return this.#failure.promise;
  }

  start(): void {
    this.#running = this.#run().catch((error: unknown) => this.#failure.reject(error));
  }

  /** What was written since the last call. */
  takeFigures(): WriterFigures {
    const figures = { writes: this.#writes, bytes: this.#bytes, slowestMs: this.#slowestMs };
    this.#writes = 0;
    this.#bytes = 0;
    this.#slowestMs = 0;
    return figures;
  }

  /** Stops, and makes what was written durable. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
    await this.#device.flush();
  }

  async #run(): Promise<void> {
    for (let batch = 1; !this.#stopping; batch += 1) {
      await Promise.all(Array.from({ length: BATCH_WRITES }, () => this.#writeOne()));
      if (batch % BATCHES_PER_FLUSH === 0) await this.#device.flush();
      await new Promise((resolve) => setTimeout(resolve, BATCH_INTERVAL_MS));
    }
  }

  async #writeOne(): Promise<void> {
    const length = SECTOR_BYTES * randomInt(1, MAX_WRITE_BYTES / SECTOR_BYTES + 1);
    const offset = SECTOR_BYTES * randomInt(0, (this.#device.sizeBytes - length) / SECTOR_BYTES + 1);
    const from = randomInt(0, MAX_WRITE_BYTES);
    const startedAt = performance.now();
    await this.#device.write(offset, this.#source.subarray(from, from + length), false);
    this.#slowestMs = Math.max(this.#slowestMs, performance.now() - startedAt);
    this.#writes += 1;
    this.#bytes += length;
  }
}
