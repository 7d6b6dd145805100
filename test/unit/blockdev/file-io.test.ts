import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type FileIo,
  readFully,
  readFullyInPool,
  writeFully,
  writeFullyInPool,
} from '../../../src/blockdev/file-io.ts';
import { pattern } from '../../support/disk-model.ts';

type Step = number | 'EINTR' | 'EIO' | 'ENOSPC';

/** A file in memory whose calls move what a script says: at most so many bytes, or an error. */
class ScriptedFile implements FileIo {
  readonly bytes: Buffer;
  readonly #steps: Step[];
  calls = 0;

  constructor(bytes: Buffer, steps: Step[] = []) {
    this.bytes = bytes;
    this.#steps = steps;
  }

  readSync(_fd: number, target: Buffer, position: number): number {
    const length = Math.min(this.#next(target.length), Math.max(0, this.bytes.length - position));
    return length === 0 ? 0 : this.bytes.copy(target, 0, position, position + length);
  }

  writeSync(_fd: number, data: Buffer, position: number): number {
    return data.copy(this.bytes, position, 0, this.#next(data.length));
  }

  read(fd: number, target: Buffer, position: number, done: (e: Error | null, n: number) => void): void {
    later(() => this.readSync(fd, target, position), done);
  }

  write(fd: number, data: Buffer, position: number, done: (e: Error | null, n: number) => void): void {
    later(() => this.writeSync(fd, data, position), done);
  }

  datasync(_fd: number, done: (error: Error | null) => void): void {
    done(null);
  }

  #next(length: number): number {
    const step = this.#steps[this.calls];
    this.calls += 1;
    if (typeof step === 'string') throw Object.assign(new Error(`scripted ${step}`), { code: step });
    return Math.min(length, step ?? length);
  }
}

function later(call: () => number, done: (error: Error | null, bytes: number) => void): void {
  setImmediate(() => {
    let moved: number;
    try {
      moved = call();
    } catch (error) {
      done(error as Error, 0);
      return;
    }
    done(null, moved);
  });
}

type Transfer = (io: FileIo, fd: number, bytes: Buffer, position: number) => void | Promise<void>;

const ways: ReadonlyArray<{ name: string; read: Transfer; write: Transfer }> = [
  { name: 'in place', read: readFully, write: writeFully },
  { name: 'on the thread pool', read: readFullyInPool, write: writeFullyInPool },
];

for (const { name, read, write } of ways) {
  describe(`transfers ${name}`, () => {
    it('take one call when it moves everything', async () => {
      const file = new ScriptedFile(Buffer.alloc(8192));
      await write(file, 3, pattern(4096, 1), 1024);
      expect(file.calls).toBe(1);
      const target = Buffer.alloc(4096);
      await read(file, 3, target, 1024);
      expect(file.calls).toBe(2);
      expect(target.equals(pattern(4096, 1))).toBe(true);
    });

    it('move everything, however little each call moves and however often it is interrupted', async () => {
      const step = fc.oneof(fc.integer({ min: 1, max: 700 }), fc.constant('EINTR' as const));
      const property = fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
        const written = new ScriptedFile(Buffer.alloc(6000, 9), [...steps]);
        await write(written, 3, pattern(4096, 2), 1000);
        expect(written.bytes.subarray(1000, 5096).equals(pattern(4096, 2))).toBe(true);
        expect(written.bytes.subarray(0, 1000).equals(Buffer.alloc(1000, 9))).toBe(true);
        expect(written.bytes.subarray(5096).equals(Buffer.alloc(904, 9))).toBe(true);
        const source = new ScriptedFile(written.bytes, [...steps]);
        const target = Buffer.alloc(4096);
        await read(source, 3, target, 1000);
        expect(target.equals(pattern(4096, 2))).toBe(true);
      });
      await fc.assert(property, { numRuns: 40 });
    });

    it('fail when the disk fills up halfway', async () => {
      const file = new ScriptedFile(Buffer.alloc(8192), [512, 'ENOSPC']);
      await expect((async () => write(file, 3, pattern(4096, 3), 0))()).rejects.toMatchObject({
        code: 'ENOSPC',
      });
    });

    it('fail when the disk fails, before or after some bytes', async () => {
      for (const steps of [['EIO'], [512, 'EIO'], ['EINTR', 512, 'EIO']] as Step[][]) {
        const file = new ScriptedFile(Buffer.alloc(8192), steps);
        await expect((async () => read(file, 3, Buffer.alloc(4096), 0))()).rejects.toMatchObject({
          code: 'EIO',
        });
      }
    });

    it('fail with EIO when the file ends before the range does', async () => {
      for (const position of [4096, 6000, 9000]) {
        const file = new ScriptedFile(Buffer.alloc(8000, 1));
        await expect((async () => read(file, 3, Buffer.alloc(4096), position))()).rejects.toMatchObject({
          name: 'BlockError',
          code: 'EIO',
          message: expect.stringContaining('cut short'),
        });
      }
    });

    it('give up when writes move nothing, or interruptions never end', async () => {
      for (const step of [0, 'EINTR'] as const) {
        const file = new ScriptedFile(
          Buffer.alloc(8192),
          Array.from({ length: 100 }, () => step),
        );
        await expect((async () => write(file, 3, pattern(4096, 4), 0))()).rejects.toMatchObject({
          code: 'EIO',
        });
        expect(file.calls).toBeLessThan(30);
      }
    });
  });
}
