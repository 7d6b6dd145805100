// Verifications that the hub was asked for and has not finished.
import { OperationError } from '../base/errors.ts';
import type { VerifyProgress, VerifyResult } from '../control/status.ts';
import { VERIFY_STATUS } from '../repwire/constants.ts';
import type { VerifyResponse } from '../repwire/messages.ts';

interface Open {
  readonly volume: string;
  readonly onProgress: (progress: VerifyProgress) => void;
  readonly resolve: (result: VerifyResult) => void;
  readonly reject: (error: Error) => void;
}

const MAX_REQUEST_ID = 0x7fff_ffff;

export class VerifyRequests {
  readonly #open = new Map<number, Open>();
  #lastId = 0;

  /** @param send sends the request with the number given */
  ask(
    volume: string,
    onProgress: (progress: VerifyProgress) => void,
    send: (requestId: number) => void,
  ): Promise<VerifyResult> {
    this.#lastId = this.#lastId === MAX_REQUEST_ID ? 1 : this.#lastId + 1;
    const requestId = this.#lastId;
    return new Promise((resolve, reject) => {
      this.#open.set(requestId, { volume, onProgress, resolve, reject });
      send(requestId);
    });
  }

  /** An answer that belongs to no request is ignored: the request may have been given up. */
  answered(message: VerifyResponse): void {
    const open = this.#open.get(message.requestId);
    if (!open) return;
    const { status, comparedBytes, totalBytes, differing } = message;
    if (status === VERIFY_STATUS.PROGRESS) {
      open.onProgress({ comparedBytes, totalBytes });
      return;
    }
    this.#open.delete(message.requestId);
    if (status === VERIFY_STATUS.DONE) {
      open.resolve({ volume: open.volume, comparedBytes, differing });
    } else {
      open.reject(
        new OperationError(`the hub could not verify volume ${JSON.stringify(open.volume)}`, {
          hint: "the hub's log says why; a replica can be verified while it is protected",
        }),
      );
    }
  }

  /** The connection is gone. */
  abort(why: string): void {
    for (const [requestId, open] of [...this.#open]) {
      this.#open.delete(requestId);
      open.reject(
        new OperationError(`the verification of volume ${JSON.stringify(open.volume)} ended early: ${why}`, {
          hint: 'try again once `repagent status` shows it protected',
        }),
      );
    }
  }
}
