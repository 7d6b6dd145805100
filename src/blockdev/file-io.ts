// The system calls that a disk file needs, as an object that a test can replace, and the loops that turn calls
// which may move fewer bytes than asked into transfers that move all. A short transfer is never taken for a whole one.
import fs from 'node:fs';
import { BlockError, errorCode } from '../base/errors.ts';
import type { NativeCalls } from '../base/native-calls.ts';

type Done = (error: Error | null, bytes: number) => void;

/** Positional I/O on a descriptor. Reads and writes answer how many bytes they moved: maybe fewer than asked. */
export interface FileIo {
  readSync(fd: number, target: Buffer, position: number): number;
  writeSync(fd: number, data: Buffer, position: number): number;
  /** On the thread pool, as are the next two. */
  read(fd: number, target: Buffer, position: number, done: Done): void;
  write(fd: number, data: Buffer, position: number, done: Done): void;
  datasync(fd: number, done: (error: Error | null) => void): void;
}

/** Node's own calls; in place the native ones where there are any, which cost a third less. */
export function systemIo(native: NativeCalls | undefined): FileIo {
  return {
    readSync: native?.readSync ?? ((fd, target, at) => fs.readSync(fd, target, 0, target.length, at)),
    writeSync: native?.writeSync ?? ((fd, data, at) => fs.writeSync(fd, data, 0, data.length, at)),
    read: (fd, target, at, done) => fs.read(fd, target, 0, target.length, at, done),
    write: (fd, data, at, done) => fs.write(fd, data, 0, data.length, at, done),
    datasync: (fd, done) => fs.fdatasync(fd, done),
  };
}

/** Calls in a row that may be interrupted, or write nothing, before it counts as a failure. */
const MAX_IDLE_CALLS = 16;

/** What a call answers that a signal interrupted before it moved anything. */
const INTERRUPTED = -1;

/** Fills `target` from `position`, in place. @throws BlockError EIO when the file ends before, or a system error */
export function readFully(io: FileIo, fd: number, target: Buffer, position: number): void {
  const moved = readOnce(io, fd, target, position);
  if (moved === target.length) return;
  const transfer = new Transfer('read', target, position);
  let more = transfer.advance(moved);
  while (more) more = transfer.advance(readOnce(io, fd, transfer.rest, transfer.at));
}

/** Writes all of `data` at `position`, in place. @throws a system error */
export function writeFully(io: FileIo, fd: number, data: Buffer, position: number): void {
  const moved = writeOnce(io, fd, data, position);
  if (moved === data.length) return;
  const transfer = new Transfer('write', data, position);
  let more = transfer.advance(moved);
  while (more) more = transfer.advance(writeOnce(io, fd, transfer.rest, transfer.at));
}

/** {@link readFully} on the thread pool. */
export function readFullyInPool(io: FileIo, fd: number, target: Buffer, position: number): Promise<void> {
  const transfer = new Transfer('read', target, position);
  return runInPool(transfer, (done) => io.read(fd, transfer.rest, transfer.at, done));
}

/** {@link writeFully} on the thread pool. */
export function writeFullyInPool(io: FileIo, fd: number, data: Buffer, position: number): Promise<void> {
  const transfer = new Transfer('write', data, position);
  return runInPool(transfer, (done) => io.write(fd, transfer.rest, transfer.at, done));
}

function runInPool(transfer: Transfer, call: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (): void => {
      call((error, bytes) => {
        try {
          if (transfer.advance(error ? idleOrThrow(error) : bytes)) step();
          else resolve();
        } catch (failure) {
          reject(failure);
        }
      });
    };
    step();
  });
}

/** A transfer of which some part has been done. */
class Transfer {
  readonly #kind: 'read' | 'write';
  readonly #bytes: Buffer;
  readonly #position: number;
  #done = 0;
  #idleCalls = 0;

  constructor(kind: 'read' | 'write', bytes: Buffer, position: number) {
    this.#kind = kind;
    this.#bytes = bytes;
    this.#position = position;
  }

  /** The part that is left. */
  get rest(): Buffer {
    return this.#done === 0 ? this.#bytes : this.#bytes.subarray(this.#done);
  }

  /** Where the part that is left lies in the file, bytes. */
  get at(): number {
    return this.#position + this.#done;
  }

  /** Takes note of what one call moved. @returns whether there is more to do @throws BlockError when it is stuck */
  advance(moved: number): boolean {
    if (moved === 0 && this.#kind === 'read' && this.#done < this.#bytes.length) {
      throw new BlockError('EIO', `the file ends at or before ${this.at}, it has been cut short`);
    }
    this.#idleCalls = moved > 0 ? 0 : this.#idleCalls + 1;
    if (this.#idleCalls > MAX_IDLE_CALLS) {
      throw new BlockError('EIO', `${this.#kind} at ${this.at} makes no progress`);
    }
    this.#done += Math.max(0, moved);
    return this.#done < this.#bytes.length;
  }
}

function readOnce(io: FileIo, fd: number, target: Buffer, position: number): number {
  try {
    return io.readSync(fd, target, position);
  } catch (error) {
    return idleOrThrow(error);
  }
}

function writeOnce(io: FileIo, fd: number, data: Buffer, position: number): number {
  try {
    return io.writeSync(fd, data, position);
  } catch (error) {
    return idleOrThrow(error);
  }
}

function idleOrThrow(error: unknown): number {
  if (errorCode(error) === 'EINTR') return INTERRUPTED;
  throw error;
}
