// The small files of a machine, as a file system keeps them: a name and a content are each durable only once they were
// synced. A killed process leaves what its calls had come to; after a power cut each name is the new one or the old,
// and a content that was not synced may be anything.
import path from 'node:path';
import type { FileCalls } from '../../src/base/small-files.ts';
import type { Clock } from './clock.ts';
import { coded } from './sim-socket.ts';

interface Content {
  text: string;
  /** Undefined: never synced. */
  durable: string | undefined;
}

/** Names and what they lead to; undefined: a name that is gone. */
type Names = Map<string, Content | undefined>;

/** All that a machine's files hold at one time. */
export type FilesCopy = ReadonlyMap<string, string>;

export class SimFiles implements FileCalls {
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #names: Names = new Map();
  readonly #durableNames: Names = new Map();
  readonly #folders = new Set<string>(['/']);
  readonly #durableFolders = new Set<string>(['/']);
  /** So many of the next calls that change something fail, and with what. */
  failCalls = 0;
  failCode = 'EIO';
  /** Grows with everything that changes. */
  version = 0;

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock;
    this.#random = random;
  }

  /** What a process would read now. */
  peek(file: string): string | undefined {
    return this.#names.get(file)?.text;
  }

  /** Whatever a process may read after a power cut, for a file that is only ever replaced as a whole. */
  possible(file: string): Array<string | undefined> {
    return [this.#names.get(file)?.text, this.#durableNames.get(file)?.durable];
  }

  async read(file: string): Promise<string | undefined> {
    await this.#step();
    return this.#names.get(file)?.text;
  }

  async write(file: string, text: string): Promise<void> {
    await this.#step();
    this.#mayFail('write');
    this.#expectFolder(file);
    const content: Content = this.#names.get(file) ?? { text: '', durable: undefined };
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
      if (!content) throw coded('ENOENT');
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
    this.#names.set(file, undefined);
    this.#changed();
  }

  async makeFolder(folder: string): Promise<void> {
    await this.#step();
    if (this.#folders.has(folder)) return;
    for (let at = folder; !this.#folders.has(at); at = path.dirname(at)) this.#folders.add(at);
    this.#changed();
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
      this.#names.set(name, content && this.#isThere(name) ? { ...content } : undefined);
    }
    for (const content of this.#names.values()) {
      if (!content) continue;
      if (content.durable === undefined) content.text = this.#torn(content.text);
      else if (this.#random() < 0.5) content.text = content.durable;
      content.durable = content.text;
    }
    this.#durableNames.clear();
    for (const [name, content] of this.#names) this.#durableNames.set(name, content && { ...content });
    this.#changed();
  }

  copy(): FilesCopy {
    const copy = new Map<string, string>();
    for (const [name, content] of this.#names) if (content) copy.set(name, content.text);
    return copy;
  }

  /** Somebody puts all of it back as it was. */
  restore(copy: FilesCopy): void {
    this.#names.clear();
    this.#durableNames.clear();
    for (const [name, text] of copy) {
      this.#names.set(name, { text, durable: text });
      this.#durableNames.set(name, { text, durable: text });
    }
    this.#changed();
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

  #mayFail(call: string): void {
    if (this.failCalls <= 0) return;
    this.failCalls -= 1;
    throw Object.assign(coded(this.failCode), { syscall: call });
  }

  #changed(): void {
    this.version += 1;
  }

  /** Takes a while, in the name of the process that calls: one that is killed never goes on. */
  #step(): Promise<void> {
    const { host } = this.#clock;
    return new Promise((resolve) => {
      this.#clock.after(0.01 + this.#random() ** 3 * 2, host, resolve);
    });
  }
}
