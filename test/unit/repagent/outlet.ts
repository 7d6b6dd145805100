// A connection that takes what the test lets it take, and parses it as a hub would.

import { UNLIMITED } from '../../../src/repagent/bandwidth-schedule.ts';
import { LinkLimiter } from '../../../src/repagent/link-limiter.ts';
import type { Outlet } from '../../../src/repagent/stream-sender.ts';
import { FrameParser } from '../../../src/repwire/frame-parser.ts';
import type { RepMessage } from '../../../src/repwire/messages.ts';
import { takeFrames, unpack } from '../../../src/repwire/packed-frames.ts';

export function noLimit(): LinkLimiter {
  return new LinkLimiter(UNLIMITED, { nowMs: () => performance.now(), wallMs: () => Date.now() });
}

export class FakeOutlet implements Outlet {
  readonly messages: RepMessage[] = [];
  /** Sends in order, as numbers of bytes. */
  readonly sends: number[] = [];
  /** While false, nothing is taken: parts stay lent. */
  taking = true;
  readonly #waiting: Array<{ parts: readonly Buffer[]; sent: (() => void) | undefined }> = [];
  /** PACKED frames that came; what they held is among the messages. */
  packed = 0;
  readonly #parser = new FrameParser((message) => {
    if (message.kind === 'packed') {
      this.packed += 1;
      takeFrames(unpack(message), (inner) => this.#keep(inner));
      return true;
    }
    return this.#keep(message);
  });

  #keep(message: RepMessage): true {
    this.messages.push('data' in message ? { ...message, data: Buffer.from(message.data) } : message);
    return true;
  }

  get unsentBytes(): number {
    return this.#waiting.reduce(
      (sum, { parts }) => sum + parts.reduce((bytes, part) => bytes + part.length, 0),
      0,
    );
  }

  send(parts: readonly Buffer[], sent?: () => void): void {
    this.sends.push(parts.reduce((bytes, part) => bytes + part.length, 0));
    this.#waiting.push({ parts, sent });
    if (this.taking) this.take();
  }

  /** Takes the next `count` sends. */
  take(count = Number.POSITIVE_INFINITY): void {
    for (let taken = 0; taken < count; taken += 1) {
      const next = this.#waiting.shift();
      if (!next) return;
      const bytes = Buffer.concat(next.parts);
      if (this.#parser.consume(bytes) !== bytes.length) throw new Error('a send ends inside a frame');
      next.sent?.();
    }
  }

  /** The connection is gone: nothing more leaves, and the parts are given back. */
  fail(): void {
    for (const { sent } of this.#waiting.splice(0)) sent?.();
  }
}
