// Takes bits away from a dirty map's file, late: only what no generation of the map needs, and only when the hub has
// what made them needless in its own durable record. A hub that forgets what it acknowledged but did not record, finds
// the agent still knowing it. Clearing too late costs a read; clearing too early would be a lie.
import type { DirtyMap } from './dirty-map.ts';
import type { DirtySidecar } from './dirty-sidecar.ts';

const TICK_MS = 1000;

/** Ticks between two signs of life. */
const TOUCH_TICKS = 5;

/** Pages of bits that one turn of the event loop writes at most. */
const PAGES_PER_TURN = 256;

export interface BitRetirementOptions {
  readonly map: DirtyMap;
  readonly sidecar: DirtySidecar;
  /** Exact maps only: makes the volume's own data durable. What a power failure takes back here is missing there. */
  readonly flush: (() => Promise<void>) | undefined;
  readonly tickMs?: number | undefined;
}

export class BitRetirement {
  readonly #options: BitRetirementOptions;
  readonly #timer: NodeJS.Timeout;
  #recorded = 0;
  #offeredAt = 0;
  #ticks = 0;
  #running: Promise<void> | undefined;

  constructor(options: BitRetirementOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.tick(), options.tickMs ?? TICK_MS);
    this.#timer.unref();
  }

  /** A new attachment of the replica: what was recorded of an earlier one means nothing. */
  restart(): void {
    this.#recorded = 0;
    this.#options.sidecar.withdraw();
  }

  /** The hub's record has come to `sequence`. */
  recorded(sequence: number): void {
    this.#recorded = Math.max(this.#recorded, sequence);
    this.#retire();
  }

  /** Looks for bits that nobody needs. Called by its own timer. */
  tick(): void {
    const { map, sidecar } = this.#options;
    this.#ticks += 1;
    if (this.#ticks % TOUCH_TICKS === 0) sidecar.touch();
    if (!sidecar.isOffered && map.streaming && sidecar.bits.count > 0) {
      const { bits, sequence } = map.retirable();
      if (bits.count > 0) {
        this.#offeredAt = sequence;
        sidecar.offer(bits);
      }
    }
    this.#retire();
  }

  /** Ends; waits for what is being taken away now. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  #retire(): void {
    const { sidecar, flush } = this.#options;
    if (this.#running || !sidecar.isOffered || this.#recorded < this.#offeredAt) return;
    if (!flush && !sidecar.retire(PAGES_PER_TURN)) return;
    this.#running = this.#retireRest(flush).finally(() => {
      this.#running = undefined;
    });
  }

  async #retireRest(flush: (() => Promise<void>) | undefined): Promise<void> {
    const { sidecar } = this.#options;
    try {
      await flush?.();
    } catch {
      // The device tells its users itself. The bits stay.
      sidecar.withdraw();
    }
    while (sidecar.retire(PAGES_PER_TURN)) await new Promise((resolve) => setImmediate(resolve));
  }
}
