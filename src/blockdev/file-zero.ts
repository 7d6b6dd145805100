// Makes ranges of a disk file read as zeroes: by fallocate where the platform has it, else by writing zeroes.
// Whatever way it takes, afterwards the range reads as zeroes; a way that the file refuses is only ever a detour.
import { BlockError } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { NativeCalls, ZeroMode } from '../base/native-calls.ts';
import { type FileIo, readFullyInPool, writeFullyInPool } from './file-io.ts';
import { SyncBudget } from './sync-budget.ts';

/** Ranges up to this are zeroed in place while the file keeps up. */
const MAX_SYNC_ZERO_BYTES = 1 * MiB;
/** One native call covers at most this: it holds the file's lock, and a write in place waits for it. */
const NATIVE_CHUNK_BYTES = 8 * MiB;
/** Bytes read or written at a time where there is no native way. */
const WRITE_CHUNK_BYTES = 1 * MiB;
/** Granularity at which non-zero bytes are looked for: what most file systems allocate by. */
const SCAN_BLOCK_BYTES = 4096;

const ZEROES = Buffer.alloc(WRITE_CHUNK_BYTES);

/** These say that the file or the range can't be treated so; anything else is a failure. */
const REFUSALS: ReadonlySet<string> = new Set([
  'ENOTSUP',
  'EOPNOTSUPP',
  'ENOSYS',
  'ENOTTY',
  'ENODEV',
  'EINVAL',
]);

export interface FileZeroOptions {
  readonly fd: number;
  readonly io: FileIo;
  readonly native: NativeCalls | undefined;
  readonly budget?: SyncBudget;
}

export class FileZero {
  readonly #fd: number;
  readonly #io: FileIo;
  readonly #native: NativeCalls | undefined;
  readonly #budget: SyncBudget;
  /** Modes that this file has refused for good. */
  readonly #refused = new Set<ZeroMode>();

  constructor(options: FileZeroOptions) {
    this.#fd = options.fd;
    this.#io = options.io;
    this.#native = options.native;
    this.#budget = options.budget ?? new SyncBudget();
  }

  /**
   * Zeroes [offset, offset + length).
   * @param mode whether the space is to be given back, or kept and taken
   * @throws BlockError, or a system error of the write that stands in
   */
  zero(offset: number, length: number, mode: ZeroMode): MaybePromise<void> {
    if (length === 0) return undefined;
    const first = this.#modeFor(mode);
    if (length > MAX_SYNC_ZERO_BYTES || first === undefined || !this.#budget.maySync()) {
      return this.#zeroInPool(offset, length, mode);
    }
    const startedAt = this.#budget.start();
    const code = this.#native!.fallocateSync(this.#fd, first, offset, length);
    this.#budget.finish(startedAt, length);
    if (code === undefined) return undefined;
    this.#judge(first, code, offset, length);
    return this.#zeroInPool(offset, length, mode);
  }

  async #zeroInPool(offset: number, length: number, mode: ZeroMode): Promise<void> {
    const startedAt = this.#budget.startInPool();
    const end = offset + length;
    for (let at = mode === 'punch' ? await this.#firstData(offset, end) : offset; at < end; ) {
      // Chunks end at multiples of their size, so that only the range's own ends can be unaligned.
      const next = Math.min(end, (Math.floor(at / NATIVE_CHUNK_BYTES) + 1) * NATIVE_CHUNK_BYTES);
      if (!(await this.#zeroNatively(at, next - at, mode))) await this.#overwrite(at, next - at, mode);
      at = next;
    }
    this.#budget.finishInPool(startedAt, length);
  }

  /** Where in the range data begins, or may: there is nothing to give back, nor to make zero, before it. */
  async #firstData(offset: number, end: number): Promise<number> {
    const found = await this.#native?.seek(this.#fd, offset, 'data');
    if (found === undefined) return offset;
    return found === -1 ? end : Math.min(end, Math.max(offset, found));
  }

  /** @returns false when there is no native way for this range */
  async #zeroNatively(offset: number, length: number, mode: ZeroMode): Promise<boolean> {
    const tried = new Set<ZeroMode>();
    for (;;) {
      const way = this.#modeFor(mode, tried);
      if (way === undefined) return false;
      const code = await this.#native!.fallocate(this.#fd, way, offset, length);
      if (code === undefined) return true;
      this.#judge(way, code, offset, length);
      tried.add(way);
    }
  }

  /** The native way to take for `wanted`: one that keeps the space may stand in for one that gives it back. */
  #modeFor(wanted: ZeroMode, tried?: ReadonlySet<ZeroMode>): ZeroMode | undefined {
    if (!this.#native) return undefined;
    if (wanted === 'punch' && !this.#refused.has('punch') && !tried?.has('punch')) return 'punch';
    if (!this.#refused.has('zero') && !tried?.has('zero')) return 'zero';
    return undefined;
  }

  /** Passes over a refusal, and remembers it unless it is the range's fault. @throws BlockError for a failure */
  #judge(mode: ZeroMode, code: string, offset: number, length: number): void {
    if (code === 'EINTR') return;
    if (!REFUSALS.has(code)) {
      const blockCode =
        code === 'ENOSPC' || code === 'EDQUOT' ? 'ENOSPC' : code === 'EPERM' ? 'EPERM' : 'EIO';
      throw new BlockError(blockCode, `fallocate (${mode}) of ${length} bytes at ${offset}: ${code}`);
    }
    if (code !== 'EINVAL') this.#refused.add(mode);
  }

  async #overwrite(offset: number, length: number, mode: ZeroMode): Promise<void> {
    const scratch = mode === 'punch' ? Buffer.allocUnsafe(Math.min(length, WRITE_CHUNK_BYTES)) : undefined;
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const size = Math.min(WRITE_CHUNK_BYTES - (at % WRITE_CHUNK_BYTES), end - at);
      if (scratch) await this.#overwriteData(at, scratch.subarray(0, size));
      else await writeFullyInPool(this.#io, this.#fd, ZEROES.subarray(0, size), at);
      at += size;
    }
  }

  /** Writes zeroes only where something else is, so that what is sparse stays sparse. */
  async #overwriteData(offset: number, scratch: Buffer): Promise<void> {
    await readFullyInPool(this.#io, this.#fd, scratch, offset);
    for (let at = 0; at < scratch.length; ) {
      const from = firstNonZeroBlock(scratch, at);
      const to = firstZeroBlock(scratch, from);
      if (from < to) await writeFullyInPool(this.#io, this.#fd, ZEROES.subarray(0, to - from), offset + from);
      at = to;
    }
  }
}

function isZero(bytes: Buffer, from: number, to: number): boolean {
  return bytes.compare(ZEROES, 0, to - from, from, to) === 0;
}

/** The start of the first block at or after `from` that holds data; the length when there is none. */
function firstNonZeroBlock(bytes: Buffer, from: number): number {
  if (isZero(bytes, from, bytes.length)) return bytes.length;
  let at = from;
  while (at < bytes.length && isZero(bytes, at, Math.min(at + SCAN_BLOCK_BYTES, bytes.length))) {
    at += SCAN_BLOCK_BYTES;
  }
  return Math.min(at, bytes.length);
}

/** The start of the first block at or after `from` that is all zeroes; the length when there is none. */
function firstZeroBlock(bytes: Buffer, from: number): number {
  let at = from;
  while (at < bytes.length && !isZero(bytes, at, Math.min(at + SCAN_BLOCK_BYTES, bytes.length))) {
    at += SCAN_BLOCK_BYTES;
  }
  return Math.min(at, bytes.length);
}
