// Tells an agent that asked for a verification how it goes, not more often than it can be of use.
import type { VerifyProgress, VerifyResult } from '../control/status.ts';
import { VERIFY_STATUS } from '../repwire/constants.ts';
import { encodeVerifyResponse } from '../repwire/encode.ts';
import type { DiskRange } from '../repwire/messages.ts';

const INTERVAL_MS = 250;

export class VerifyAnswers {
  readonly #requestId: number;
  readonly #volumeId: bigint;
  readonly #totalBytes: number;
  readonly #send: (frame: Buffer) => void;
  #comparedBytes = 0;
  #sentAtMs = 0;

  constructor(requestId: number, volumeId: bigint, totalBytes: number, send: (frame: Buffer) => void) {
    this.#requestId = requestId;
    this.#volumeId = volumeId;
    this.#totalBytes = totalBytes;
    this.#send = send;
  }

  progress({ comparedBytes }: VerifyProgress): void {
    this.#comparedBytes = comparedBytes;
    const now = performance.now();
    if (now - this.#sentAtMs < INTERVAL_MS) return;
    this.#sentAtMs = now;
    this.#answer(VERIFY_STATUS.PROGRESS, []);
  }

  done(result: VerifyResult): void {
    this.#comparedBytes = result.comparedBytes;
    this.#answer(VERIFY_STATUS.DONE, result.differing);
  }

  failed(): void {
    this.#answer(VERIFY_STATUS.FAILED, []);
  }

  #answer(status: number, differing: readonly DiskRange[]): void {
    this.#send(
      encodeVerifyResponse(
        this.#requestId,
        this.#volumeId,
        status,
        this.#comparedBytes,
        this.#totalBytes,
        differing,
      ),
    );
  }
}
