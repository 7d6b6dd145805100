// How fast the hub's synchronisation moves and how long it will take, from the progress that the hub tells.

/** How far back the rate looks, ms. */
const WINDOW_MS = 5000;

/** Progress is told a few times a second: after so long without any, nothing moves, ms. */
const STALL_MS = 1000;

interface Sample {
  readonly timeMs: number;
  readonly doneBytes: number;
}

export interface SyncProgress {
  /** 0..100. */
  readonly percent: number | null;
  readonly bytesPerSecond: number | null;
  readonly timeLeftMs: number | null;
}

export class SyncMeter {
  readonly #nowMs: () => number;
  #samples: Sample[] = [];
  #doneBytes = 0;
  #totalBytes = 0;

  /** @param nowMs a clock that only goes forward */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  get doneBytes(): number {
    return this.#doneBytes;
  }

  get totalBytes(): number {
    return this.#totalBytes;
  }

  /** A synchronisation begins. */
  restart(): void {
    this.#samples = [];
    this.#doneBytes = 0;
    this.#totalBytes = 0;
  }

  note(doneBytes: number, totalBytes: number): void {
    if (doneBytes < this.#doneBytes || totalBytes < this.#totalBytes) this.#samples = [];
    this.#doneBytes = doneBytes;
    this.#totalBytes = totalBytes;
    const timeMs = this.#nowMs();
    this.#samples.push({ timeMs, doneBytes });
    // One sample older than the window stays, so that there is always something to compare with.
    while (this.#samples.length > 2 && this.#samples[1]!.timeMs < timeMs - WINDOW_MS) this.#samples.shift();
  }

  get progress(): SyncProgress {
    if (this.#totalBytes === 0) return { percent: null, bytesPerSecond: null, timeLeftMs: null };
    const percent = Math.min(100, (100 * this.#doneBytes) / this.#totalBytes);
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    const toldMs = first && last ? last.timeMs - first.timeMs : 0;
    if (!first || !last || toldMs <= 0) return { percent, bytesPerSecond: null, timeLeftMs: null };
    const stalledMs = Math.max(0, this.#nowMs() - last.timeMs - STALL_MS);
    const movedBytes = stalledMs < 2 * WINDOW_MS ? last.doneBytes - first.doneBytes : 0;
    const bytesPerSecond = Math.round((1000 * movedBytes) / (toldMs + stalledMs));
    const left = Math.max(0, this.#totalBytes - this.#doneBytes);
    const timeLeftMs = bytesPerSecond > 0 ? Math.round((1000 * left) / bytesPerSecond) : null;
    return { percent, bytesPerSecond, timeLeftMs };
  }
}
