// The changes that the server has answered and that no FLUSH covers yet: what a server that dies may forget.
//
// A FLUSH promises the durability of everything answered before it, over the life of the device. A connection is
// shorter-lived than that: when it breaks, the server may have been restarted and have lost answered changes, in its
// page cache when the host died, in its own caches (qcow2 tables in qemu-nbd) when only the process did. The
// protocol can't tell us which. Just going on would let a later FLUSH succeed that covers lost data; failing that FLUSH
// would be honest, and would end the guest's file system at every restart of a server. So the changes are kept
// until a FLUSH covers them, and sent once more, in order, after a reconnect: what an NFS client does with
// unstable writes until COMMIT. This presumes that nobody else changes the same blocks meanwhile, as one VM owns its disk.
//
// With a limit of zero nothing is kept, only counted: then the next FLUSH after a reconnect has to fail once.
import type { RetainedBytes } from '../../base/buffer-pool.ts';
import { NBD_CMD, NBD_CMD_FLAG_FUA } from '../../nbdwire/constants.ts';
import { CopyArena } from './copy-arena.ts';

/** One change, with its bytes when it has any. */
export interface LogEntry {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data: RetainedBytes | undefined;
}

/** What an entry counts for beside its bytes, so that many small ones are bounded too. */
const ENTRY_OVERHEAD_BYTES = 256;

/** Entries to forget before the array is cut. */
const CUT_AFTER = 4096;

/** What a change of `command` and `length` bytes will count for. */
export function logCost(command: number, length: number): number {
  return ENTRY_OVERHEAD_BYTES + (command === NBD_CMD.WRITE ? length : 0);
}

export class UnflushedLog {
  readonly limitBytes: number;
  readonly #arena: CopyArena;
  #entries: LogEntry[] = [];
  /** Marks count changes since the device was opened; entries[#skip] is change number #covered. */
  #skip = 0;
  #covered = 0;
  #answered = 0;
  #bytes = 0;

  /** @param limitBytes what may be kept; 0 keeps nothing and only counts */
  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
    // The log is flushed when half full.
    this.#arena = new CopyArena(limitBytes / 2);
  }

  get keeps(): boolean {
    return this.limitBytes > 0;
  }

  /** Bytes that are kept, overhead included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Changes that no FLUSH covers. */
  get size(): number {
    return this.#answered - this.#covered;
  }

  /** What a FLUSH that is submitted now covers. */
  get mark(): number {
    return this.#answered;
  }

  /** A change was answered. `data` is still lent at this moment, and is copied. */
  add(command: number, flags: number, offset: number, length: number, data: Buffer | undefined): void {
    // A durable change needs no second sending, unless that of an older one would undo it.
    if ((flags & NBD_CMD_FLAG_FUA) !== 0 && this.size === 0) return;
    this.#answered += 1;
    if (!this.keeps) return;
    const bytes = command === NBD_CMD.WRITE && data ? this.#arena.copy(data) : undefined;
    this.#entries.push({ command, flags, offset, length, data: bytes });
    this.#bytes += logCost(command, length);
  }

  /** A FLUSH submitted at `mark` succeeded, or its loss was told: forgets what came before it. */
  release(mark: number): void {
    while (this.#covered < mark) {
      this.#covered += 1;
      const entry = this.keeps ? this.#entries[this.#skip] : undefined;
      if (!entry) continue;
      this.#skip += 1;
      this.#bytes -= logCost(entry.command, entry.length);
      entry.data?.release();
    }
    if (this.#skip === this.#entries.length || this.#skip > CUT_AFTER) {
      this.#entries = this.#entries.slice(this.#skip);
      this.#skip = 0;
    }
  }

  /** Forgets everything, and gives its memory back. */
  close(): void {
    this.release(this.#answered);
    this.#arena.close();
  }

  /** What is kept, oldest first. */
  entries(): LogEntry[] {
    return this.#entries.slice(this.#skip);
  }
}
