// Sends kept changes once more, oldest first. Changes that overlap never travel together, since a server may carry
// out what is in flight in any order; all others do, since one at a time would take a round trip each.
import { chunksOf } from './chunks.ts';
import type { LogEntry } from './unflushed-log.ts';

export class Replay {
  readonly #entries: readonly LogEntry[];
  readonly #inFlight = new Set<LogEntry>();
  #next = 0;

  constructor(entries: readonly LogEntry[]) {
    this.#entries = entries;
  }

  get size(): number {
    return this.#entries.length;
  }

  get finished(): boolean {
    return this.#next === this.#entries.length && this.#inFlight.size === 0;
  }

  /** The next change to send, or undefined when it has to wait or there is none. */
  take(): LogEntry | undefined {
    const entry = this.#entries[this.#next];
    if (!entry) return undefined;
    for (const other of this.#inFlight) {
      if (other.offset < entry.offset + entry.length && entry.offset < other.offset + other.length) {
        return undefined;
      }
    }
    this.#next += 1;
    this.#inFlight.add(entry);
    return entry;
  }

  answered(entry: LogEntry): void {
    this.#inFlight.delete(entry);
  }
}

/**
 * Cuts changes without data that are larger than one request may be: they may have been made on a connection of
 * another style.
 */
export function splitEntries(entries: readonly LogEntry[], largestBytes: number): readonly LogEntry[] {
  if (entries.every((entry) => entry.length <= largestBytes)) return entries;
  return entries.flatMap((entry) => {
    if (entry.length <= largestBytes) return entry;
    return Array.from(chunksOf(entry.length, largestBytes), ({ start, end }) => ({
      ...entry,
      offset: entry.offset + start,
      length: end - start,
    }));
  });
}
