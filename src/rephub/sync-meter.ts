// How fast a sync goes, over the last seconds, and how long it will take.

const WINDOW_MS = 5000;
const SLOTS = 10;
const SLOT_MS = WINDOW_MS / SLOTS;

export class SyncMeter {
  readonly #slots = new Float64Array(SLOTS);
  #slot = 0;
  #startedAtMs = 0;

  /** A sync begins. @param nowMs a monotonic clock, as in the other calls */
  start(nowMs: number): void {
    this.#slots.fill(0);
    this.#slot = Math.floor(nowMs / SLOT_MS);
    this.#startedAtMs = nowMs;
  }

  add(bytes: number, nowMs: number): void {
    this.#advance(nowMs);
    this.#slots[this.#slot % SLOTS]! += bytes;
  }

  /** Bytes per second over the window, or since the start when that is shorter; null while it is too early to tell. */
  bytesPerSecond(nowMs: number): number | null {
    this.#advance(nowMs);
    const sinceStartMs = nowMs - this.#startedAtMs;
    // The slot of this moment is not full yet.
    const coveredMs = Math.min(sinceStartMs, (SLOTS - 1) * SLOT_MS + (nowMs % SLOT_MS));
    if (coveredMs < 100) return null;
    let bytes = 0;
    for (const slot of this.#slots) bytes += slot;
    return (bytes / coveredMs) * 1000;
  }

  /** Milliseconds for `remainingBytes` at the present rate; null when there is no rate. */
  timeLeftMs(remainingBytes: number, nowMs: number): number | null {
    const rate = this.bytesPerSecond(nowMs);
    if (rate === null || rate === 0) return null;
    return (remainingBytes / rate) * 1000;
  }

  #advance(nowMs: number): void {
    const slot = Math.floor(nowMs / SLOT_MS);
    const steps = Math.min(slot - this.#slot, SLOTS);
    for (let i = 1; i <= steps; i += 1) this.#slots[(this.#slot + i) % SLOTS] = 0;
    if (slot > this.#slot) this.#slot = slot;
  }
}
