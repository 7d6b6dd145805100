// The small files of a machine, as a file system keeps them: a name and a content are each durable only once they were
// synced. A killed process leaves what its calls had come to; after a power cut each name is the new one or the old,
// and a content that was not synced may be anything.
import path from 'node:path';
import type { FileCalls } from '../../src/base/small-files.ts';
import type { UndoCalls, UndoFile } from '../../src/rephub/undo-file.ts';
import type { Clock } from './clock.ts';
import { SECTOR } from './sectors.ts';
import { SimBlocks } from './sim-blocks.ts';
import { coded } from './sim-socket.ts';

interface Text {
  text: string;
  /** Undefined: never synced. */
  durable: string | undefined;
}

type Content = Text | SimBlocks;

/** Names and what they lead to; undefined: a name that is gone. */
type Names = Map<string, Content | undefined>;

/** All that a machine's files hold at one time. */
export type FilesCopy = ReadonlyMap<string, string | Buffer>;

export class SimFiles implements FileCalls, UndoCalls {
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #names: Names = new Map();
  readonly #durableNames: Names = new Map();
  readonly #folders = new Set<string>(['/']);
  readonly #durableFolders = new Set<string>(['/']);
  /** So many of the next calls that change something fail, and with what. */
  failCalls = 0;
  failCode = 'EIO';
  /** Files that are written in place are the only ones that those of `failCalls` happen to. */
  failsBlocksOnly = false;
  /** There is no room for anything more. */
  isFull = false;
  /** Grows with everything that changes, but for what is written in place, which has a number of its own. */
  version = 0;
  blocksVersion = 0;
  /** So many calls are answered; after them nothing is. */
  callsLeft = Number.POSITIVE_INFINITY;
  /** Calls take time; otherwise all that follows from one happens at once. */
  #takesTime = true;
  /** What files that were written in place and removed leave on the medium. */
  #leftBehind: Buffer | undefined;

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock;
    this.#random = random;
  }

  /** What a process would read now. */
  peek(file: string): string | undefined {
    return textOf(this.#names.get(file))?.text;
  }

  /** Whatever a process may read after a power cut, for a file that is only ever replaced as a whole. */
  possible(file: string): Array<string | undefined> {
    return [textOf(this.#names.get(file))?.text, textOf(this.#durableNames.get(file))?.durable];
  }

  /** A power cut would leave exactly what a process sees. */
  get isSettled(): boolean {
    for (const name of new Set([...this.#names.keys(), ...this.#durableNames.keys()])) {
      const content = this.#names.get(name);
      if (content !== this.#durableNames.get(name)) return false;
      if (content instanceof SimBlocks ? !content.isSettled : content && content.text !== content.durable)
        return false;
    }
    return true;
  }

  async read(file: string): Promise<string | undefined> {
    await this.#step();
    return textOf(this.#names.get(file))?.text;
  }

  async open(file: string, isNew: boolean): Promise<UndoFile> {
    await this.#step();
    if (isNew) this.#mayFail('open', true, true);
    const known = this.#names.get(file);
    const isBlocks = known instanceof SimBlocks;
    if (!isNew && !isBlocks) throw coded('ENOENT');
    this.#expectFolder(file);
    const blocks = isBlocks ? known : new SimBlocks(this.#leftBehind);
    blocks.forget(this.#random);
    if (isNew) {
      blocks.truncate(0);
      this.#names.set(file, blocks);
      this.#changed();
    }
    return this.#opened(blocks);
  }

  async write(file: string, text: string): Promise<void> {
    await this.#step();
    this.#mayFail('write', false, true);
    this.#expectFolder(file);
    const content: Text = textOf(this.#names.get(file)) ?? { text: '', durable: undefined };
    content.text = text.slice(0, Math.floor(this.#random() * text.length));
    this.#names.set(file, content);
    this.#changed();
    await this.#step();
    content.text = text;
    this.#changed();
  }

  async sync(fileOrFolder: string): Promise<void> {
    await this.#step();
    this.#mayFail('fsync');
    if (this.#folders.has(fileOrFolder)) this.#syncFolder(fileOrFolder);
    else {
      const content = this.#names.get(fileOrFolder);
      if (!content || content instanceof SimBlocks) throw coded('ENOENT');
      content.durable = content.text;
    }
    this.#changed();
    await this.#step();
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#step();
    this.#mayFail('rename');
    const content = this.#names.get(from);
    if (!content) throw coded('ENOENT');
    this.#leaveBehind(to);
    this.#names.set(to, content);
    this.#names.set(from, undefined);
    this.#changed();
    await this.#step();
  }

  async link(from: string, to: string): Promise<void> {
    await this.#step();
    this.#mayFail('link');
    if (this.#names.get(to)) throw coded('EEXIST');
    this.#names.set(to, this.#names.get(from));
    this.#changed();
    await this.#step();
  }

  async remove(file: string): Promise<void> {
    await this.#step();
    this.#leaveBehind(file);
    this.#names.set(file, undefined);
    this.#changed();
  }

  async makeFolder(folder: string): Promise<void> {
    await this.#step();
    if (this.#folders.has(folder)) return;
    for (let at = folder; !this.#folders.has(at); at = path.dirname(at)) this.#folders.add(at);
    this.#changed();
  }

  /** The process that used them is gone, or was made to read files anew. */
  processDied(): void {
    for (const content of this.#names.values()) {
      if (content instanceof SimBlocks) content.forget(this.#random);
    }
    this.blocksVersion += 1;
  }

  /** Power is cut: each name is what it was, or what it was synced as. */
  powerCut(): void {
    for (const folder of this.#folders) {
      if (!this.#durableFolders.has(folder) && this.#random() < 0.5) this.#folders.delete(folder);
      else this.#durableFolders.add(folder);
    }
    for (const name of new Set([...this.#names.keys(), ...this.#durableNames.keys()])) {
      const keeps = this.#random() < 0.5;
      const content = keeps ? this.#names.get(name) : this.#durableNames.get(name);
      this.#names.set(name, content && this.#isThere(name) ? copyOf(content) : undefined);
    }
    for (const content of this.#names.values()) {
      if (!content) continue;
      if (content instanceof SimBlocks) {
        content.powerCut(this.#random);
        continue;
      }
      if (content.durable === undefined) content.text = this.#torn(content.text);
      else if (this.#random() < 0.5) content.text = content.durable;
      content.durable = content.text;
    }
    this.#durableNames.clear();
    for (const [name, content] of this.#names) this.#durableNames.set(name, content);
    this.#changed();
  }

  copy(): FilesCopy {
    const copy = new Map<string, string | Buffer>();
    for (const [name, content] of this.#names) {
      if (content instanceof SimBlocks) copy.set(name, Buffer.from(content.bytes));
      else if (content) copy.set(name, content.text);
    }
    return copy;
  }

  /** Somebody puts all of it back as it was. */
  restore(copy: FilesCopy): void {
    this.#names.clear();
    this.#durableNames.clear();
    for (const [name, bytes] of copy) {
      const content = typeof bytes === 'string' ? { text: bytes, durable: bytes } : SimBlocks.of(bytes);
      this.#names.set(name, content);
      this.#durableNames.set(name, content);
    }
    this.#changed();
  }

  /** The same files, as somebody would find them whose calls take no time. What is done to them is not done to these. */
  apart(random: () => number): SimFiles {
    const apart = new SimFiles(this.#clock, random);
    apart.#takesTime = false;
    apart.#leftBehind = this.#leftBehind;
    const copies = new Map<Content, Content>();
    const copied = (content: Content | undefined): Content | undefined => {
      if (!content) return undefined;
      const copy = copies.get(content) ?? copyOf(content);
      copies.set(content, copy);
      return copy;
    };
    for (const [name, content] of this.#names) apart.#names.set(name, copied(content));
    for (const [name, content] of this.#durableNames) apart.#durableNames.set(name, copied(content));
    for (const folder of this.#folders) apart.#folders.add(folder);
    for (const folder of this.#durableFolders) apart.#durableFolders.add(folder);
    return apart;
  }

  /** A file that one process has open. */
  #opened(blocks: SimBlocks): UndoFile {
    const changed = (): void => {
      this.blocksVersion += 1;
    };
    return {
      get sizeBytes() {
        return blocks.sizeBytes;
      },
      read: async (position, target) => {
        await this.#step();
        return blocks.read(position, target);
      },
      write: async (position, data) => {
        await this.#step();
        const failure = this.#failure('write', true, position + data.length > blocks.sizeBytes);
        blocks.write(position, data.subarray(0, SECTOR * this.#some(data.length / SECTOR)));
        changed();
        if (failure) throw failure;
        await this.#step();
        blocks.write(position, data);
        changed();
      },
      truncate: async (sizeBytes) => {
        await this.#step();
        this.#mayFail('ftruncate', true);
        blocks.truncate(sizeBytes);
        changed();
      },
      sync: async () => {
        await this.#step();
        const failure = this.#failure('fdatasync', true, false);
        if (failure) blocks.syncFails();
        else blocks.sync();
        changed();
        if (failure) throw failure;
        await this.#step();
      },
      close: () => this.#step(),
    };
  }

  #some(most: number): number {
    return Math.floor(this.#random() * most);
  }

  #leaveBehind(file: string): void {
    const content = this.#names.get(file);
    if (content instanceof SimBlocks) this.#leftBehind = content.bytes;
  }

  #isThere(name: string): boolean {
    for (let at = path.dirname(name); ; at = path.dirname(at)) {
      if (!this.#folders.has(at)) return false;
      if (at === path.dirname(at)) return true;
    }
  }

  #syncFolder(folder: string): void {
    for (const name of new Set([...this.#names.keys(), ...this.#durableNames.keys()])) {
      if (path.dirname(name) === folder) this.#durableNames.set(name, this.#names.get(name));
    }
    for (const name of this.#folders) if (path.dirname(name) === folder) this.#durableFolders.add(name);
  }

  #expectFolder(file: string): void {
    if (!this.#folders.has(path.dirname(file))) throw coded('ENOENT');
  }

  #torn(text: string): string {
    const kept = Math.floor(this.#random() * text.length);
    return text.slice(0, kept) + '\0'.repeat(text.length - kept);
  }

  #mayFail(call: string, isBlocks = false, needsRoom = false): void {
    const failure = this.#failure(call, isBlocks, needsRoom);
    if (failure) throw failure;
  }

  /** What becomes of the call that is about to change something, if it fails. */
  #failure(call: string, isBlocks: boolean, needsRoom: boolean): Error | undefined {
    if (this.isFull && needsRoom) return Object.assign(coded('ENOSPC'), { syscall: call });
    if (this.failCalls <= 0 || (this.failsBlocksOnly && !isBlocks)) return undefined;
    this.failCalls -= 1;
    return Object.assign(coded(this.failCode), { syscall: call });
  }

  #changed(): void {
    this.version += 1;
  }

  /** Takes a while, in the name of the process that calls: one that is killed never goes on. */
  #step(): Promise<void> {
    this.callsLeft -= 1;
    if (this.callsLeft < 0) return new Promise(() => {});
    if (!this.#takesTime) return Promise.resolve();
    const { host } = this.#clock;
    return new Promise((resolve) => {
      this.#clock.after(0.01 + this.#random() ** 3 * 2, host, resolve);
    });
  }
}

function textOf(content: Content | undefined): Text | undefined {
  return content instanceof SimBlocks ? undefined : content;
}

function copyOf(content: Content): Content {
  return content instanceof SimBlocks ? content.copy() : { ...content };
}
