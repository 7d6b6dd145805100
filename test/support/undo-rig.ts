// An image and the place of its undo log in memory, as a disk behind a page cache keeps them: what was written is seen at
// once, and durable after a sync only. At any step of either the process can be killed, or the machine lose its power.
import { BlockError } from '../../src/base/errors.ts';
import type { Mutation } from '../../src/blockdev/mutation.ts';
import type { RecoverableImage } from '../../src/rephub/recover.ts';
import type { ReplicaStore } from '../../src/rephub/replica-store.ts';
import type { UndoFile, UndoPlace } from '../../src/rephub/undo-file.ts';
import type { UndoNote } from '../../src/rephub/undo-store.ts';

const SECTOR = 512;

/** The process does not live to see it. */
export class Killed extends Error {}

/** Counts the steps of a process, and ends it before one of them. */
export class Fate {
  steps = 0;
  /** Before which step; counted from 1. */
  killBefore = Number.POSITIVE_INFINITY;
  isDead = false;

  /** @throws Killed */
  step(): void {
    this.steps += 1;
    if (this.steps >= this.killBefore) this.isDead = true;
    if (this.isDead) throw new Killed();
  }
}

/** Bytes that are visible, and those of them that are durable, sector by sector. */
export class CachedBytes {
  visible: Buffer;
  durable: Buffer;
  readonly #unsynced = new Set<number>();
  /** What a sync that failed has left in the cache as if it were on the disk. */
  readonly #forgotten = new Set<number>();

  constructor(content: Buffer) {
    this.visible = Buffer.from(content);
    this.durable = Buffer.from(content);
  }

  write(offset: number, data: Buffer): void {
    const end = offset + data.length;
    if (end > this.visible.length) {
      this.visible = Buffer.concat([this.visible], Math.ceil(end / SECTOR) * SECTOR);
    }
    data.copy(this.visible, offset);
    for (let at = Math.floor(offset / SECTOR); at * SECTOR < end; at += 1) {
      this.#unsynced.add(at);
      this.#forgotten.delete(at);
    }
  }

  truncate(sizeBytes: number): void {
    this.visible = Buffer.from(this.visible.subarray(0, sizeBytes));
    this.durable = Buffer.from(this.durable.subarray(0, sizeBytes));
  }

  sync(): void {
    const before = this.durable;
    this.durable = Buffer.from(this.visible);
    this.#forget(this.durable, before);
    this.#unsynced.clear();
  }

  /** The disk does not take it, and the kernel forgets that it has not: no later sync makes it durable. */
  failSync(): never {
    for (const at of this.#unsynced) this.#forgotten.add(at);
    this.#unsynced.clear();
    throw Object.assign(new Error('input/output error'), { code: 'EIO' });
  }

  /** The power fails: of what was not synced each sector is there or isn't. */
  losePower(random: () => number): void {
    const kept = Buffer.concat([this.durable], this.visible.length);
    for (const at of this.#unsynced) {
      if (random() < 0.5) this.visible.copy(kept, at * SECTOR, at * SECTOR, (at + 1) * SECTOR);
    }
    this.#forget(kept, this.durable);
    this.visible = kept;
    this.durable = Buffer.from(kept);
    this.#unsynced.clear();
    this.#forgotten.clear();
  }

  /** What the kernel has forgotten is as it was. */
  #forget(now: Buffer, before: Buffer): void {
    for (const at of this.#forgotten) {
      const from = at * SECTOR;
      now.fill(0, Math.min(from, now.length), Math.min(from + SECTOR, now.length));
      if (from < before.length) before.copy(now, from, from, from + SECTOR);
    }
  }
}

/** Which log is needed, in memory: durable when the call has answered. */
export class MemoryNote implements UndoNote {
  logId: string | null = null;
  fate = new Fate();

  async keep(logId: string | null): Promise<void> {
    this.fate.step();
    this.logId = logId;
    this.fate.step();
  }
}

export class MemoryUndoPlace implements UndoPlace {
  readonly path = 'undo';
  bytes: CachedBytes | undefined;
  aside: CachedBytes | undefined;
  /** Bytes that its file may have: above it is a full disk. */
  roomBytes = Number.POSITIVE_INFINITY;
  fate = new Fate();
  syncs = 0;
  /** So many syncs of the file fail. */
  syncFaults = 0;
  #going: CachedBytes | undefined;
  /** Its name is not durable. */
  #isComing = false;

  async open(): Promise<UndoFile | undefined> {
    this.fate.step();
    this.#isComing = false;
    return this.bytes && this.#file(this.bytes);
  }

  async create(content: Buffer): Promise<UndoFile> {
    this.fate.step();
    if (this.bytes) throw new Error('there is one');
    if (content.length > this.roomBytes) throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    this.bytes = new CachedBytes(content);
    this.#isComing = true;
    this.fate.step();
    this.#isComing = false;
    return this.#file(this.bytes);
  }

  async remove(): Promise<void> {
    this.fate.step();
    this.#going = this.bytes;
    this.bytes = undefined;
    this.fate.step();
    this.#going = undefined;
  }

  /** A name that was taken away, and not yet durably, may be there again. */
  losePower(random: () => number): void {
    if (this.#going && random() < 0.5) this.bytes = this.#going;
    if (this.#isComing && random() < 0.5) this.bytes = undefined;
    this.#isComing = false;
    this.#going = undefined;
    this.bytes?.losePower(random);
  }

  async setAside(): Promise<void> {
    this.fate.step();
    this.aside = this.bytes;
    this.bytes = undefined;
  }

  #file(bytes: CachedBytes): UndoFile {
    const { fate } = this;
    return {
      get sizeBytes() {
        return bytes.visible.length;
      },
      read: async (position, target) => bytes.visible.copy(target, 0, position),
      write: async (position, data) => {
        fate.step();
        if (position + data.length > this.roomBytes) {
          throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
        }
        // A write that is cut short has got somewhere.
        bytes.write(position, data.subarray(0, Math.floor(data.length / 1024) * SECTOR));
        fate.step();
        bytes.write(position, data);
      },
      truncate: async (sizeBytes) => {
        fate.step();
        bytes.truncate(sizeBytes);
      },
      sync: async () => {
        fate.step();
        if (this.syncFaults > 0) {
          this.syncFaults -= 1;
          bytes.failSync();
        }
        bytes.sync();
        this.syncs += 1;
        fate.step();
      },
      close: async () => {},
    };
  }
}

/** The image as `recover` opens it. */
export function rigImage(bytes: CachedBytes, fate: Fate): RecoverableImage {
  const write = async (offset: number, data: Buffer): Promise<void> => {
    fate.step();
    bytes.write(offset, data.subarray(0, Math.ceil(data.length / 1024) * SECTOR));
    fate.step();
    bytes.write(offset, data);
  };
  return {
    sizeBytes: bytes.visible.length,
    write,
    writeZeroes: (offset, length) => write(offset, Buffer.alloc(length)),
    flush: async () => {
      fate.step();
      bytes.sync();
      fate.step();
    },
    close: async () => {},
  };
}

/** The image, as a store: mutation by mutation, each of which may be torn by the end of the process. */
export class RigStore implements ReplicaStore {
  readonly #bytes: CachedBytes;
  readonly #fate: Fate;
  writes = 0;

  constructor(bytes: CachedBytes, fate: Fate) {
    this.#bytes = bytes;
    this.#fate = fate;
  }

  get sizeBytes(): number {
    return this.#bytes.visible.length;
  }

  async append(batch: readonly Mutation[]): Promise<void> {
    for (const mutation of batch) {
      this.#fate.step();
      if (mutation.kind === 'flush') continue;
      const data = mutation.kind === 'write' ? mutation.data : Buffer.alloc(mutation.length);
      this.writes += 1;
      this.#bytes.write(mutation.offset, data.subarray(0, Math.ceil(data.length / 1024) * SECTOR));
      this.#fate.step();
      this.#bytes.write(mutation.offset, data);
    }
  }

  async commit(): Promise<void> {
    this.#fate.step();
    this.#bytes.sync();
    this.#fate.step();
  }

  read(offset: number, target: Buffer): void {
    if (this.#fate.isDead) throw new Killed();
    this.#bytes.visible.copy(target, 0, offset);
  }

  async grow(): Promise<void> {
    throw new BlockError('ENOTSUP', 'not here');
  }

  async close(): Promise<void> {}
}
