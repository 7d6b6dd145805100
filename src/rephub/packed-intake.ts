// Unpacks what an agent packs, in its place, so that order stays. A few bytes may unpack to megabytes: after so many in one
// pass what came is applied, and others have their turn, before more is taken; memory stays bounded whatever is sent.
import { pinBytes } from '../base/buffer-pool.ts';
import { MiB } from '../base/limits.ts';
import { hasFlag, PACK_CODECS } from '../repwire/constants.ts';
import type { Packed } from '../repwire/messages.ts';
import { type PackableHandler, takeFrames, unpack, unpackOnPool } from '../repwire/packed-frames.ts';
import { WireError } from '../wire/struct.ts';

/** Bytes that one pass unpacks before it ends. */
const PASS_BYTES = MiB;

export interface PackedIntakeOptions {
  /** Content up to this size is unpacked at once, bytes; larger ones go to the thread pool. */
  readonly atOnceBytes: number;
  readonly handle: PackableHandler;
  /** Runs what takes frames in outside of a pass, with all that a pass looks after. Never throws. */
  readonly later: (take: () => void) => void;
}

export class PackedIntake {
  readonly #options: PackedIntakeOptions;
  #agentFeatures = 0;
  #passBytes = 0;

  constructor(options: PackedIntakeOptions) {
    this.#options = options;
  }

  /** The agent has said what it may pack with. */
  agree(agentFeatures: number): void {
    this.#agentFeatures = agentFeatures;
  }

  passBegins(): void {
    this.#passBytes = 0;
  }

  /**
   * @returns undefined, or a promise when the pass has to end: nothing more may be taken before it resolves
   * @throws WireError
   */
  take(message: Packed): Promise<void> | undefined {
    if (!hasFlag(this.#agentFeatures, PACK_CODECS[message.codec].feature)) {
      throw new WireError(`PACKED with ${message.codec}, of which the agent's HELLO did not speak`);
    }
    if (message.contentBytes > this.#options.atOnceBytes) return this.#takeLater(message);
    takeFrames(unpack(message), this.#options.handle);
    this.#passBytes += message.contentBytes;
    if (this.#passBytes < PASS_BYTES) return undefined;
    return new Promise((resolve) => {
      setImmediate(resolve);
    });
  }

  async #takeLater(message: Packed): Promise<void> {
    const { handle, later } = this.#options;
    // The connection may go, and its memory be used by another, while the pool still reads.
    const unpin = pinBytes(message.data);
    try {
      const content = await unpackOnPool(message);
      later(() => takeFrames(content, handle));
    } catch (error) {
      later(() => {
        throw error;
      });
    } finally {
      unpin?.();
    }
  }
}
