// The replica as a plain image: the same bytes at the same offsets, and nothing else. A machine can be started from
// it as it is. It keeps no history: after a crash of the hub's machine it has to be read anew.
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { applyMutation, type Mutation, mutationRange } from '../blockdev/mutation.ts';
import { RangeLock } from '../blockdev/range-lock.ts';
import type { ReplicaStore } from './replica-store.ts';

export class ImageStore implements ReplicaStore {
  readonly #device: BlockDevice;

  /** @param device becomes the store's: it is closed with it */
  constructor(device: BlockDevice) {
    this.#device = device;
  }

  get sizeBytes(): number {
    return this.#device.sizeBytes;
  }

  append(batch: readonly Mutation[]): MaybePromise<void> {
    for (let i = 0; i < batch.length; i += 1) {
      const result = this.#apply(batch[i]!);
      if (result instanceof Promise) return this.#appendRest(batch, i, result);
    }
  }

  async commit(): Promise<void> {
    await this.#device.flush();
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    return this.#device.read(offset, target);
  }

  async grow(sizeBytes: number): Promise<void> {
    await this.#device.resize(sizeBytes);
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  /** The disk is slow at present: what doesn't overlap goes on together. Nothing is answered before all of it ended. */
  async #appendRest(batch: readonly Mutation[], at: number, first: Promise<void>): Promise<void> {
    const lock = new RangeLock();
    const running: Array<Promise<void>> = [];
    const start = (mutation: Mutation, run: () => MaybePromise<void>): void => {
      const { offset, length } = mutationRange(mutation);
      const result = lock.run(offset, length, run);
      if (result) running.push(result);
    };
    start(batch[at]!, () => first);
    let thrown: { readonly error: unknown } | undefined;
    for (let i = at + 1; i < batch.length; i += 1) {
      const mutation = batch[i]!;
      try {
        start(mutation, () => this.#apply(mutation));
      } catch (error) {
        thrown = { error };
        break;
      }
    }
    for (const result of await Promise.allSettled(running)) {
      if (result.status === 'rejected') thrown ??= { error: result.reason };
    }
    if (thrown) throw thrown.error;
  }

  #apply(mutation: Mutation): MaybePromise<void> {
    // A plain image can't keep what follows a flush from reaching the disk before it does, short of waiting for the
    // disk each time. Commits follow each other without pause anyhow, and nothing is acknowledged before its own.
    if (mutation.kind === 'flush') return undefined;
    return applyMutation(this.#device, mutation);
  }
}
