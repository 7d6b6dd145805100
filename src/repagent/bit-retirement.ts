// Takes bits away from a dirty map's file, late: only what no generation of the map needs, and only when the hub has
// what made them needless in its own durable record. A hub that forgets what it acknowledged but did not record, finds
// the agent still knowing it. Clearing too late costs a read; clearing too early would be a lie.
//
// A bit that is taken away costs the next change of its chunk a system call before its data, as much as the data's own.
// So while many changes pay that, needless bits stay in the file for a while: the process knows of them and names them
// to no hub. Only one that is killed in that time has forgotten it, and has more read than it had to.
import type { DirtyMap } from './dirty-map.ts';
import type { DirtySidecar } from './dirty-sidecar.ts';

const TICK_MS = 1000;

/** Ticks between two signs of life. */
const TOUCH_TICKS = 5;

/** Pages of bits that one turn of the event loop writes at most. */
const PAGES_PER_TURN = 256;

/** Changes a second that may set a bit in the file without a thought: a hundredth of a processor, at most. */
const CHEAP_WRITES_PER_SECOND = 2000;

/** The same of an exact map, where each of them makes changes wait for a sync. */
const CHEAP_SYNCS_PER_SECOND = 50;

/** Above that, taking bits away waits until not more than one in so many changes had to set one, ... */
const CHANGES_PER_WRITE = 20;

/** ... but no longer than this, ms. */
const LONGEST_HOLD_MS = 15_000;

export interface BitRetirementOptions {
  readonly map: DirtyMap;
  readonly sidecar: DirtySidecar;
  /** Exact maps only: makes the volume's own data durable. What a power failure takes back here is missing there. */
  readonly flush: (() => Promise<void>) | undefined;
  readonly tickMs?: number | undefined;
  /** Bits that are set a second below which needless ones are taken away at once. */
  readonly cheapWritesPerSecond?: number | undefined;
}

export class BitRetirement {
  readonly #options: BitRetirementOptions;
  readonly #timer: NodeJS.Timeout;
  #recorded = 0;
  #offeredAt = 0;
  /** Counts offers and their withdrawals: what was made durable for one says nothing of the next. */
  #offers = 0;
  #ticks = 0;
  #running: Promise<void> | undefined;
  #keepsAll = false;
  /** When bits were taken away last, and what had been counted by then. */
  #clearedAtMs = performance.now();
  #changesBefore = 0;
  #bitWritesBefore = 0;

  constructor(options: BitRetirementOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.tick(), options.tickMs ?? TICK_MS);
    this.#timer.unref();
  }

  /** A new attachment of the replica: what was recorded of an earlier one means nothing. */
  restart(): void {
    this.#recorded = 0;
    this.#offers += 1;
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
    const isUnoffered = !this.#keepsAll && !sidecar.isOffered;
    if (isUnoffered && map.streaming && sidecar.bits.count > sidecar.needlessCount) {
      const { bits, sequence } = map.retirable();
      if (bits.count > 0) {
        this.#offeredAt = sequence;
        this.#offers += 1;
        sidecar.offer(bits);
      }
    }
    this.#retire();
  }

  /** From now on no bit becomes needless. */
  keepAll(): void {
    this.#keepsAll = true;
    this.#offers += 1;
    this.#options.sidecar.withdraw();
  }

  /** Ends; waits for what is being taken away now. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  #retire(): void {
    const { sidecar, flush } = this.#options;
    if (this.#running) return;
    const isRecorded = sidecar.isOffered && this.#recorded >= this.#offeredAt;
    if (isRecorded && flush) {
      this.#run(this.#settleDurably(flush));
      return;
    }
    if (isRecorded) sidecar.settle();
    this.#clear();
  }

  async #settleDurably(flush: () => Promise<void>): Promise<void> {
    const { sidecar } = this.#options;
    const offer = this.#offers;
    try {
      await flush();
      if (offer === this.#offers) sidecar.settle();
    } catch {
      // The device tells its users itself. A later flush that succeeds does not mean what this one should have meant.
      this.keepAll();
    }
    if (this.#takesAway() && sidecar.retire(PAGES_PER_TURN)) await this.#clearRest();
  }

  #clear(): void {
    if (this.#takesAway() && this.#options.sidecar.retire(PAGES_PER_TURN)) this.#run(this.#clearRest());
  }

  async #clearRest(): Promise<void> {
    const { sidecar } = this.#options;
    do await new Promise((resolve) => setImmediate(resolve));
    while (sidecar.retire(PAGES_PER_TURN));
  }

  #run(work: Promise<void>): void {
    this.#running = work.finally(() => {
      this.#running = undefined;
    });
  }

  /** Whether to take needless bits away now; if so, what was counted so far is history. */
  #takesAway(): boolean {
    const { sidecar, flush } = this.#options;
    const cheap = flush ? CHEAP_SYNCS_PER_SECOND : CHEAP_WRITES_PER_SECOND;
    const { cheapWritesPerSecond = cheap } = this.#options;
    if (sidecar.needlessCount === 0) return false;
    const nowMs = performance.now();
    const heldMs = nowMs - this.#clearedAtMs;
    const [changes, bitWrites] = [sidecar.changes, sidecar.bitWrites];
    const writes = bitWrites - this.#bitWritesBefore;
    const isCheap =
      writes <= cheapWritesPerSecond * Math.max(1, heldMs / 1000) ||
      writes * CHANGES_PER_WRITE <= changes - this.#changesBefore;
    if (!isCheap && heldMs < LONGEST_HOLD_MS) return false;
    this.#clearedAtMs = nowMs;
    this.#changesBefore = changes;
    this.#bitWritesBefore = bitWrites;
    return true;
  }
}
