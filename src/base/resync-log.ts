// The resyncs of one volume: why each was needed, when, how long it took, and what it read. The newest few are kept.
import type { ResyncCause, ResyncReason } from './resync-reason.ts';

/** Resyncs of a volume that are remembered. */
export const MAX_RESYNCS = 16;

export interface ResyncRecord {
  readonly reason: ResyncReason;
  readonly detail: string | null;
  /** What else was to be read from then on, before it had ended. */
  readonly furtherReasons: readonly ResyncReason[];
  /** ISO 8601. */
  readonly startedAt: string;
  /** Until now while it runs. */
  readonly durationMs: number;
  /** cut-short: what was left is part of the next one. */
  readonly outcome: 'running' | 'done' | 'cut-short';
  /** Bytes that were read of the agent's disk to be sent. */
  readonly readBytes: number;
  /** Bytes of which digests were compared, and what of them was found to differ; the agent does not learn the latter. */
  readonly comparedBytes: number;
  readonly differingBytes: number | null;
  /** What guests wrote while no stream brought it, each time counted; null: nobody counted. */
  readonly changedBytes: number | null;
}

type Open = { -readonly [K in keyof ResyncRecord]: ResyncRecord[K] };

/** Reasons that say less than what the other side may know. */
const VAGUE: ReadonlySet<ResyncReason> = new Set(['unknown', 'start', 'restart', 'link-lost']);

export class ResyncLog {
  readonly #onEnded: (record: ResyncRecord) => void;
  /** Newest first. */
  readonly #ended: ResyncRecord[] = [];
  #open: Open | undefined;
  #startedAtMs = 0;

  /** @param onEnded told of each resync that has ended, done or not */
  constructor(onEnded: (record: ResyncRecord) => void) {
    this.#onEnded = onEnded;
  }

  /** Whether one runs. */
  get isOpen(): boolean {
    return this.#open !== undefined;
  }

  /** Why the one that runs was begun, or else the last one. */
  get reason(): ResyncReason {
    return (this.#open ?? this.#ended[0])?.reason ?? 'unknown';
  }

  /** Newest first, what runs included. */
  get records(): readonly ResyncRecord[] {
    return this.#open ? [this.#current(this.#open), ...this.#ended] : [...this.#ended];
  }

  /** One begins, or there is more to read for the one that runs. */
  begin({ reason, detail }: ResyncCause): void {
    if (this.#open) {
      const { furtherReasons } = this.#open;
      if (furtherReasons.at(-1) !== reason && furtherReasons.length < MAX_RESYNCS)
        this.#open.furtherReasons = [...furtherReasons, reason];
      return;
    }
    this.#startedAtMs = performance.now();
    this.#open = {
      reason,
      detail,
      furtherReasons: [],
      startedAt: new Date().toISOString(),
      durationMs: 0,
      outcome: 'running',
      readBytes: 0,
      comparedBytes: 0,
      differingBytes: null,
      changedBytes: null,
    };
  }

  /** The other side says why. @param wins also over a reason that is not vague */
  explain(reason: ResyncReason, wins = false): void {
    if (!this.#open || reason === 'unknown') return;
    if (wins || VAGUE.has(this.#open.reason)) this.#open.reason = reason;
  }

  /** Bytes were read to be sent. */
  read(bytes: number): void {
    if (this.#open) this.#open.readBytes += bytes;
  }

  /** Digests of a range were compared. @param differs undefined: who asks does not learn it */
  compared(bytes: number, differs?: boolean): void {
    if (!this.#open) return;
    this.#open.comparedBytes += bytes;
    if (differs !== undefined)
      this.#open.differingBytes = (this.#open.differingBytes ?? 0) + (differs ? bytes : 0);
  }

  /** Guests wrote so much that no stream brought. @param bytes null: nobody counted */
  changed(bytes: number | null): void {
    if (this.#open && bytes !== null) this.#open.changedBytes = (this.#open.changedBytes ?? 0) + bytes;
  }

  /** The one that runs is over, if one does. */
  end(outcome: 'done' | 'cut-short'): void {
    if (!this.#open) return;
    const record = { ...this.#current(this.#open), outcome };
    this.#open = undefined;
    this.#ended.unshift(record);
    if (this.#ended.length > MAX_RESYNCS) this.#ended.pop();
    this.#onEnded(record);
  }

  #current(open: Open): ResyncRecord {
    return { ...open, durationMs: Math.round(performance.now() - this.#startedAtMs) };
  }
}
