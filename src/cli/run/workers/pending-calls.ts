// Calls to a worker that are not answered yet. Each ends once: with its answer, its error, or the worker's end.
import type { VerifyProgress } from '../../../control/status.ts';
import { type FromWorker, toldError } from './messages.ts';

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onProgress: ((progress: VerifyProgress) => void) | undefined;
}

export class PendingCalls {
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;

  /** @param send gives the call its way, under the id */
  ask(send: (id: number) => void, onProgress?: (progress: VerifyProgress) => void): Promise<unknown> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, onProgress });
      send(id);
    });
  }

  take(message: Extract<FromWorker, { kind: 'progress' | 'answer' | 'error' }>): void {
    const call = this.#pending.get(message.id);
    if (message.kind === 'progress') {
      call?.onProgress?.(message.progress);
      return;
    }
    this.#pending.delete(message.id);
    if (message.kind === 'answer') call?.resolve(message.value);
    else call?.reject(toldError(message.error));
  }

  /** Nobody answers any more. */
  failAll(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}
