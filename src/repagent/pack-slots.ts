// How many loads the whole process packs at one time, whatever the number of its hubs: threads of the pool that then
// have no time for the guests' disks. Whoever waits is served in order of arrival.
import { availableParallelism } from 'node:os';

export class PackSlots {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(slots: number) {
    this.#free = slots;
  }

  /** Takes a slot. @returns false when there is none; `freed` is then called once when there may be one */
  take(freed: () => void): boolean {
    if (this.#free === 0) {
      this.#waiting.add(freed);
      return false;
    }
    this.#free -= 1;
    return true;
  }

  release(): void {
    this.#free += 1;
    // One that has nothing to pack any more leaves the slot to the next.
    for (const next of this.#waiting) {
      if (this.#free === 0) return;
      this.#waiting.delete(next);
      next();
    }
  }

  /** Does not wait any more. */
  forget(freed: () => void): void {
    this.#waiting.delete(freed);
  }
}

/** Of libuv's four threads at most two, and never all processors. */
export const sharedPackSlots = new PackSlots(Math.max(1, Math.min(2, availableParallelism() - 1)));
