// What became of the last verification of a replica.
import { errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { VerificationStatus, VerifyResult } from '../control/status.ts';
import type { DiskRange } from '../repwire/messages.ts';
import type { VerifyHow } from './hash-exchange.ts';

/** Ranges that are told of one verification. */
export const MAX_TOLD_RANGES = 64;

export interface VerificationNote {
  /** @param differences all of them */
  ended(result: VerifyResult, differences: Iterable<DiskRange>): void;
  failed(error: unknown): void;
}

export class VerifyHistory {
  readonly #logger: Logger;
  readonly #about: () => object;
  #last: VerificationStatus | undefined;

  /** @param about names the replica in the log */
  constructor(logger: Logger, about: () => object) {
    this.#logger = logger;
    this.#about = about;
  }

  /** The last one that has ended, well or not, since the hub was started. */
  get last(): VerificationStatus | null {
    return this.#last ?? null;
  }

  /** One begins. */
  begin(how: VerifyHow): VerificationNote {
    const startedAt = new Date().toISOString();
    const beganMs = performance.now();
    const end = (outcome: Pick<VerificationStatus, 'outcome'> & Partial<VerificationStatus>): void => {
      const status: VerificationStatus = {
        by: how.by,
        startedAt,
        durationMs: Math.round(performance.now() - beganMs),
        comparedBytes: 0,
        differingBytes: 0,
        differing: [],
        action: 'none',
        error: null,
        ...outcome,
      };
      this.#last = status;
      const level = status.outcome === 'equal' ? 'info' : 'error';
      this.#logger[level]({ ...this.#about(), ...status }, 'a verification has ended');
    };
    return {
      ended: ({ comparedBytes }, differences) => {
        const differing: DiskRange[] = [];
        let differingBytes = 0;
        for (const range of differences) {
          differingBytes += range.length;
          if (differing.length < MAX_TOLD_RANGES) differing.push(range);
        }
        if (differingBytes === 0) end({ outcome: 'equal', comparedBytes });
        else end({ outcome: 'differs', comparedBytes, differingBytes, differing, action: how.onDifference });
      },
      failed: (error) => end({ outcome: 'failed', error: errorMessage(error) }),
    };
  }
}
