// Holds what an agent says of its lag against the replica itself: a write that was answered and is not in the replica's
// file is older than nothing that may be said. Looks at the file after the status, so that it never blames wrongly.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import type { VolumeStatus } from '../../src/control/status.ts';

/** Milliseconds that rounding and a clock's ticks may cost. */
const SLACK_MS = 3;
const HEAD_BYTES = 16;

interface Write {
  readonly offset: number;
  readonly head: Buffer;
  readonly answeredAtMs: number;
}

export class LagWitness implements Disposable {
  /** The longest true lag that was seen, and how often what was said could be judged. */
  longestMs = 0;
  judged = 0;
  readonly #fd: number;
  readonly #missing: Write[] = [];

  constructor(replica: string) {
    this.#fd = fs.openSync(replica, 'r');
  }

  [Symbol.dispose](): void {
    fs.closeSync(this.#fd);
  }

  /** Answered writes that were not in the replica when it was last looked at. */
  get missing(): number {
    return this.#missing.length;
  }

  /** Each offset is to be written once. */
  async write(guest: BlockDevice, offset: number, length: number): Promise<void> {
    const data = randomBytes(length);
    await guest.write(offset, data, false);
    this.#missing.push({ offset, head: data.subarray(0, HEAD_BYTES), answeredAtMs: performance.now() });
  }

  /**
   * @param ask asks the agent
   * @throws Error when it says that less is at stake than is
   */
  async judge(ask: () => Promise<VolumeStatus | undefined>): Promise<VolumeStatus> {
    const askedAtMs = performance.now();
    const told = await ask();
    if (!told) throw new Error('the agent has no volume');
    const oldest = this.#oldestMissing();
    if (!oldest || oldest.answeredAtMs > askedAtMs) return told;
    this.judged += 1;
    const trueMs = askedAtMs - oldest.answeredAtMs;
    this.longestMs = Math.max(this.longestMs, trueMs);
    if (told.lagMs !== null && told.lagMs < trueMs - SLACK_MS) {
      throw new Error(
        `the agent says ${told.lagMs} ms, but the hub lacks a write of ${trueMs.toFixed(1)} ms ago: ${JSON.stringify(told)}`,
      );
    }
    return told;
  }

  #oldestMissing(): Write | undefined {
    const found = Buffer.alloc(HEAD_BYTES);
    // They may arrive in another order, when they are read again.
    for (let i = this.#missing.length - 1; i >= 0; i -= 1) {
      const { offset, head } = this.#missing[i]!;
      fs.readSync(this.#fd, found, 0, HEAD_BYTES, offset);
      if (found.equals(head)) this.#missing.splice(i, 1);
    }
    return this.#missing[0];
  }
}
