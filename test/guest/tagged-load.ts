// Writes a TaggedDisk over NBD, one write at a time, here and there in its first half, often in the same places, with
// flushes between. Who has to read the second half again has forgotten what changed.
import type { RawNbdClient } from '../support/raw-nbd-client.ts';
import { BLOCK_BYTES, type TaggedDisk } from '../support/tagged-disk.ts';

const WRITE = 1;
const FLUSH = 3;

/** Most writes go to so many blocks, so that they overlap. */
const BUSY_BLOCKS = 128;
const MOST_BLOCKS = 8;
const FILL_BLOCKS = 256;

export class TaggedLoad {
  readonly #client: RawNbdClient;
  readonly #disk: TaggedDisk;
  readonly #random: () => number;
  /** The newest write that a flush has covered. */
  flushed = 0;

  constructor(client: RawNbdClient, disk: TaggedDisk, random: () => number) {
    this.#client = client;
    this.#disk = disk;
    this.#random = random;
  }

  /** A few writes, and now and then a flush. @throws Error when the server is gone */
  async batch(): Promise<void> {
    for (let writes = this.#upTo(6); writes > 0; writes -= 1) {
      const blocks = this.#upTo(MOST_BLOCKS);
      const among = this.#random() < 0.8 ? BUSY_BLOCKS : this.#disk.blocks / 2;
      await this.write(this.#upTo(among - blocks + 1) - 1, blocks);
    }
    if (this.#random() < 0.4) await this.flush();
  }

  /** Every block, in large writes. */
  async fill(): Promise<void> {
    for (let first = 0; first < this.#disk.blocks; first += FILL_BLOCKS) {
      await this.write(first, Math.min(FILL_BLOCKS, this.#disk.blocks - first));
    }
  }

  async write(first: number, blocks: number): Promise<void> {
    await this.#ask(WRITE, first * BLOCK_BYTES, this.#disk.next(first, blocks));
  }

  async flush(): Promise<void> {
    const covered = this.#disk.count;
    await this.#ask(FLUSH, 0);
    this.flushed = covered;
  }

  async #ask(type: number, offset: number, data?: Buffer): Promise<void> {
    const { error } = await this.#client.request({ type, offset, ...(data ? { data } : {}) });
    if (error !== 0) throw new Error(`NBD request ${type} failed with ${error}`);
  }

  /** 1..most */
  #upTo(most: number): number {
    return 1 + Math.floor(this.#random() * most);
  }
}
