// An image and the place of its undo log in memory, as a disk behind a page cache keeps them: what was written is seen at
// once, and durable after a sync only. At any step of either the process can be killed, or the machine lose its power.
import { BlockError } from '../../src/base/errors.ts';
import type { Mutation } from '../../src/blockdev/mutation.ts';
import type { RecoverableImage } from '../../src/rephub/recover.ts';
import type { ReplicaStore } from '../../src/rephub/replica-store.ts';
import type { UndoFile, UndoPlace } from '../../src/rephub/undo-file.ts';

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
    for (let at = Math.floor(offset / SECTOR); at * SECTOR < end; at += 1) this.#unsynced.add(at);
  }

  truncate(sizeBytes: number): void {
    this.visible = Buffer.from(this.visible.subarray(0, sizeBytes));
    this.durable = Buffer.from(this.durable.subarray(0, sizeBytes));
  }

  sync(): void {
    this.durable = Buffer.from(this.visible);
    this.#unsynced.clear();
  }

  /** The power fails: of what was not synced each sector is there or isn't. */
  losePower(random: () => number): void {
    const kept = Buffer.concat([this.durable], this.visible.length);
    for (const at of this.#unsynced) {
      if (random() < 0.5) this.visible.copy(kept, at * SECTOR, at * SECTOR, (at + 1) * SECTOR);
    }
    this.visible = kept;
    this.durable = Buffer.from(kept);
    this.#unsynced.clear();
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
  #going: CachedBytes | undefined;

  async open(): Promise<UndoFile | undefined> {
    this.fate.step();
    return this.bytes && this.#file(this.bytes);
  }

  async create(content: Buffer): Promise<UndoFile> {
    this.fate.step();
    if (this.bytes) throw new Error('there is one');
    if (content.length > this.roomBytes) throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    this.bytes = new CachedBytes(content);
    this.fate.step();
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
        bytes.sync();
        this.syncs += 1;
        fate.step();
      },
      close: async () => {},
    };
  }
}

/** The image, as a store: mutation by mutation, each of which may be torn by the end of the process. */
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
