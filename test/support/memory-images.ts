// Replica images in memory that behave like a disk behind a page cache: what was appended is visible at once, durable
// only after a commit; a commit that fails loses some of what it should have covered; appends can be slow, or fail
// halfway. It records what happened in order.
import { BlockError, type BlockErrorCode, OperationError } from '../../src/base/errors.ts';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { Mutation } from '../../src/blockdev/mutation.ts';
import type { ImageOpener } from '../../src/rephub/image-opener.ts';
import type { ReplicaStore } from '../../src/rephub/replica-store.ts';

export class MemoryImage {
  /** What a read sees, and what would be left after a power failure. */
  visible: Buffer;
  durable: Buffer;
  readonly log: string[] = [];
  /** Appends answer at once, or with a promise after a turn of the event loop. */
  isSlow = false;
  /** The next appends, or commits, or opens fail. */
  appendFaults: BlockErrorCode[] = [];
  commitFaults: BlockErrorCode[] = [];
  openFaults: BlockErrorCode[] = [];
  /** Commits wait for this before they end. */
  commitGate: (() => Promise<void>) | undefined;
  appendGate: (() => Promise<void>) | undefined;
  isOpen = false;
  /** An append is under way. */
  isBusy = false;
  commits = 0;
  /** Calls that the contract of a store forbids: the hub must never make them. */
  readonly violations: string[] = [];
  #written = new Set<number>();

  constructor(sizeBytes: number) {
    this.visible = Buffer.alloc(sizeBytes, 0xee);
    this.durable = Buffer.from(this.visible);
  }

  apply(mutation: Mutation): void {
    if (mutation.kind === 'flush') return;
    const { offset } = mutation;
    const length = mutation.kind === 'write' ? mutation.data.length : mutation.length;
    if (offset + length > this.visible.length) throw new Error(`append beyond the end: ${offset}+${length}`);
    if (mutation.kind === 'write') mutation.data.copy(this.visible, offset);
    else this.visible.fill(0, offset, offset + length);
    for (let page = Math.floor(offset / PAGE); page * PAGE < offset + length; page += 1)
      this.#written.add(page);
  }

  /** What the kernel writes back now; the rest of what is dirty stays in memory. */
  beginCommit(): () => void {
    const pages = [...this.#written].map((page) => [page, Buffer.from(this.#page(page))] as const);
    this.#written.clear();
    return () => {
      for (const [page, bytes] of pages) bytes.copy(this.durable, page * PAGE);
    };
  }

  /** Every other page that was to be written is lost, and with it what a read would have seen. */
  losePages(): void {
    let lose = true;
    for (const page of this.#written) {
      if (lose) this.durable.copy(this.visible, page * PAGE, page * PAGE, (page + 1) * PAGE);
      lose = !lose;
    }
    this.#written.clear();
  }

  #page(page: number): Buffer {
    return this.visible.subarray(page * PAGE, Math.min((page + 1) * PAGE, this.visible.length));
  }
}

const PAGE = 512;

export class MemoryImages implements ImageOpener {
  readonly images = new Map<string, MemoryImage>();

  constructor(sizes: Readonly<Record<string, number>> = {}) {
    for (const [path, size] of Object.entries(sizes)) this.images.set(path, new MemoryImage(size));
  }

  image(path: string): MemoryImage {
    const image = this.images.get(path);
    if (!image) throw new Error(`there is no image ${path}`);
    return image;
  }

  async identify(path: string): Promise<string | undefined> {
    return this.images.has(path) ? `memory:${path}` : undefined;
  }

  async open(path: string, createSizeBytes: number | undefined): Promise<ReplicaStore> {
    let image = this.images.get(path);
    if (!image) {
      if (createSizeBytes === undefined) throw new OperationError(`${path}: no such image`);
      image = new MemoryImage(createSizeBytes);
      image.visible.fill(0);
      image.durable.fill(0);
      this.images.set(path, image);
    }
    const fault = image.openFaults.shift();
    if (fault) throw new OperationError(`injected ${fault} in open of ${path}`);
    if (image.isOpen) throw new OperationError(`${path} is in use`);
    return new MemoryStore(image);
  }
}

export class MemoryStore implements ReplicaStore {
  readonly #image: MemoryImage;
  #closed = false;
  #broken = false;
  #committing = false;
  #running: Promise<unknown> = Promise.resolve();

  constructor(image: MemoryImage) {
    this.#image = image;
    image.isOpen = true;
  }

  get sizeBytes(): number {
    return this.#image.visible.length;
  }

  append(batch: readonly Mutation[]): MaybePromise<void> {
    const image = this.#image;
    this.#expect(!this.#closed, 'append to a closed store');
    this.#expect(!image.isBusy, 'append while another one runs');
    const fault = image.appendFaults.shift();
    if (!image.isSlow && !image.appendGate) {
      this.#carryOut(batch, fault);
      return undefined;
    }
    image.isBusy = true;
    const work = this.#appendLater(batch, fault);
    this.#running = Promise.allSettled([this.#running, work]);
    return work;
  }

  async commit(): Promise<void> {
    const image = this.#image;
    this.#expect(!this.#closed, 'commit of a closed store');
    this.#expect(!this.#broken, 'commit after a commit that failed');
    this.#expect(!image.isBusy, 'commit while an append runs');
    this.#expect(!this.#committing, 'commit while another one runs');
    image.log.push('commit begins');
    this.#committing = true;
    const fault = image.commitFaults.shift();
    const work = fault ? this.#failCommit(fault) : this.#carryOutCommit();
    // Of either kind: a disk that is closed meanwhile is let go when its sync has ended, well or not.
    this.#running = Promise.allSettled([this.#running, work]);
    return work;
  }

  async #failCommit(fault: BlockErrorCode): Promise<void> {
    const image = this.#image;
    await image.commitGate?.();
    image.losePages();
    this.#broken = true;
    image.log.push('commit failed');
    throw new BlockError(fault, `injected ${fault} in commit`);
  }

  async #carryOutCommit(): Promise<void> {
    const image = this.#image;
    const finish = image.beginCommit();
    await (image.commitGate?.() ?? new Promise<void>((resolve) => setImmediate(resolve)));
    finish();
    this.#committing = false;
    image.commits += 1;
    image.log.push('commit ends');
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    if (this.#closed) throw new BlockError('ESHUTDOWN', 'closed');
    this.#image.visible.copy(target, 0, offset, offset + target.length);
    if (!this.#image.isSlow) return undefined;
    return new Promise((resolve) => setImmediate(resolve));
  }

  async grow(sizeBytes: number): Promise<void> {
    const image = this.#image;
    this.#expect(!this.#closed && !image.isBusy && !this.#committing, 'grow while something is under way');
    image.log.push(`grow ${sizeBytes}`);
    image.visible = Buffer.concat([image.visible], sizeBytes);
    image.durable = Buffer.concat([image.durable], sizeBytes);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#running;
    if (!this.#broken) this.#image.beginCommit()();
    this.#image.isOpen = false;
    this.#image.log.push('closed');
  }

  #expect(condition: boolean, what: string): void {
    if (condition) return;
    this.#image.violations.push(what);
    throw new Error(what);
  }

  async #appendLater(batch: readonly Mutation[], fault: BlockErrorCode | undefined): Promise<void> {
    try {
      await (this.#image.appendGate?.() ?? new Promise<void>((resolve) => setImmediate(resolve)));
      this.#carryOut(batch, fault);
    } finally {
      this.#image.isBusy = false;
    }
  }

  #carryOut(batch: readonly Mutation[], fault: BlockErrorCode | undefined): void {
    const count = fault ? Math.floor(batch.length / 2) : batch.length;
    for (const mutation of batch.slice(0, count)) this.#image.apply(mutation);
    if (!fault) return;
    this.#image.log.push(`append failed`);
    throw new BlockError(fault, `injected ${fault} in append`);
  }
}
