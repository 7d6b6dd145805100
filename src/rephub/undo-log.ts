// What an image held when it was a state of its volume last, kept beside it while it is overwritten piece by piece: the
// first time that a granule changes, its old bytes are appended and made durable before the image is touched. A granule
// is kept once. The image must never be changed where its old bytes are not durable in here.
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { Bitmap } from '../base/bitmap.ts';
import { BlockError, errorCode, errorMessage } from '../base/errors.ts';
import { KiB, MiB } from '../base/limits.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { formatBytes } from '../base/size.ts';
import { type Mutation, mutationRange } from '../blockdev/mutation.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { UndoFile, UndoPlace } from './undo-file.ts';
import {
  BATCHES_OFFSET,
  BLOCK_BYTES,
  batchBytes,
  encodeBatch,
  encodeHead,
  encodeState,
  MAX_ENTRIES,
  MAX_ENTRY_BYTES,
  MAX_PAYLOAD_BYTES,
  STATE_OFFSET,
  type UndoEntry,
  type UndoHead,
  type UndoState,
} from './undo-format.ts';
import { resumeBatches, type UndoContent } from './undo-reader.ts';
import { isAllZero } from './zero-runs.ts';

/** The smallest granule, and the most of them: a volume's map takes at most 32 MiB. */
const MIN_GRANULE_BYTES = 4 * KiB;
const MAX_GRANULES = 2 ** 28;

/** Bytes of the log from one sync to the next: what has to be written anew by whoever goes on with it. */
const MAX_GROUP_BYTES = 16 * MiB;

/** Bytes that are looked through before others have their turn: of a range that is trimmed there may be very many. */
const TURN_BYTES = 4 * MiB;

export type ReadOld = (offset: number, target: Buffer) => MaybePromise<void>;

/** Old bytes can't be kept: there is no room for them, or they can't be read. */
export class NotKeptError extends BlockError {}

export interface UndoLogOptions {
  readonly place: UndoPlace;
  /** Most bytes of the log. */
  readonly maxBytes: number;
  /** What the image holds now. */
  readonly readOld: ReadOld;
}

export class UndoLog {
  readonly head: UndoHead;
  readonly #options: UndoLogOptions;
  readonly #file: UndoFile;
  readonly #granuleBytes: number;
  readonly #sizeBytes: number;
  /** Granules that are in the log, or in the batch that is being put together. */
  readonly #kept: Bitmap;
  readonly #space = Buffer.allocUnsafe(batchBytes(MAX_PAYLOAD_BYTES));
  readonly #old = Buffer.allocUnsafe(MAX_PAYLOAD_BYTES);
  #state: UndoState;
  #reason: string;
  #position: number;
  #groupStart = BATCHES_OFFSET;
  #entries: UndoEntry[] = [];
  #payloadBytes = 0;
  #turnBytes = 0;

  private constructor(options: UndoLogOptions, file: UndoFile, content: UndoContent, sizeBytes: number) {
    this.#options = options;
    this.#file = file;
    this.head = content.head;
    this.#state = content.state;
    this.#reason = content.reason;
    this.#position = BATCHES_OFFSET;
    this.#sizeBytes = sizeBytes;
    // Not of the present size: an image that grows keeps the granules that its log began with.
    this.#granuleBytes = granuleFor(content.head.sizeBytes);
    this.#kept = new Bitmap(Math.ceil(sizeBytes / this.#granuleBytes));
  }

  /**
   * Begins a log. The image is durable as `point` has it.
   * @param givenUp why nothing is to be kept; the log then only says that there is no way back
   */
  static async create(
    options: UndoLogOptions,
    about: { readonly image: string; readonly volumeName: string; readonly sizeBytes: number },
    point: RecoveryPoint,
    givenUp?: string,
  ): Promise<UndoLog> {
    const head = { ...about, id: randomBytes(16).toString('hex'), point, createdAtMs: Date.now() };
    const state = givenUp === undefined ? 'open' : 'givenUp';
    const reason = givenUp ?? '';
    const content = Buffer.concat([encodeHead(head), encodeState(head.id, state, reason)]);
    const file = await roomFor(() => options.place.create(content));
    return new UndoLog(options, file, { head, state, reason }, about.sizeBytes);
  }

  /**
   * Goes on with a log that is there.
   * @param content what `readContent` has found
   * @param sizeBytes the image's now
   * @throws OperationError when it is damaged
   */
  static async load(
    options: UndoLogOptions,
    file: UndoFile,
    content: UndoContent,
    sizeBytes: number,
  ): Promise<UndoLog> {
    const log = new UndoLog(options, file, content, sizeBytes);
    await log.#load();
    return log;
  }

  get state(): UndoState {
    return this.#state;
  }

  /** Why it was given up; else empty. */
  get reason(): string {
    return this.#reason;
  }

  get bytes(): number {
    return this.#position;
  }

  /**
   * Keeps what `batch` is about to overwrite. When it has answered, the batch may be carried out.
   * @throws NotKeptError when there is no room, or the image can't be read; other errors when the log can't be written.
   *   It is then to be loaded anew, or given up
   */
  async protect(batch: readonly Mutation[]): Promise<void> {
    this.#groupStart = this.#position;
    for (const mutation of batch) {
      const { offset, length } = mutationRange(mutation);
      if (length > 0) await this.#protectRange(mutation, offset, length);
    }
    await this.#writeBatch();
    await this.#syncGroup();
  }

  /** Says durably that the image can't be put back any more, and lets go of the space. */
  async giveUp(reason: string): Promise<void> {
    await this.#setState('givenUp', reason);
    this.#position = BATCHES_OFFSET;
    await this.#file.truncate(BATCHES_OFFSET);
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #load(): Promise<void> {
    // Of a sync that failed nothing tells: what says so here may be in the page cache alone.
    if (this.#state === 'givenUp') return this.giveUp(this.#reason);
    const { place } = this.#options;
    const end = await resumeBatches(this.#file, place.path, this.head.id, ({ entries }) => {
      for (const { offset, length } of entries) this.#kept.set(...this.#granulesOf(offset, length));
    });
    if (end < this.#file.sizeBytes) await this.#file.truncate(end);
    await this.#file.sync();
    this.#position = end;
  }

  async #setState(state: UndoState, reason: string): Promise<void> {
    // At once: a write that fails may have got there all the same.
    this.#state = state;
    this.#reason = reason;
    await this.#file.write(STATE_OFFSET, encodeState(this.head.id, state, reason));
    await this.#file.sync();
  }

  async #protectRange(mutation: Mutation, offset: number, length: number): Promise<void> {
    const [first, end] = this.#granulesOf(offset, length);
    const most = Math.max(1, MAX_PAYLOAD_BYTES / this.#granuleBytes);
    for (let from = this.#kept.nextClear(first); from < end; ) {
      const set = this.#kept.nextSet(from);
      const to = Math.min(set === -1 ? end : set, end, from + most);
      await this.#protectGranules(mutation, from, to);
      from = this.#kept.nextClear(to);
    }
  }

  /** None of them is kept yet. */
  async #protectGranules(mutation: Mutation, first: number, end: number): Promise<void> {
    const start = first * this.#granuleBytes;
    const old = this.#old.subarray(0, Math.min(end * this.#granuleBytes, this.#sizeBytes) - start);
    await this.#readOld(start, old);
    for (let granule = first; granule < end; granule += 1) {
      const from = (granule - first) * this.#granuleBytes;
      const bytes = old.subarray(from, from + this.#granuleBytes);
      // What is overwritten with what is there already needs no way back.
      if (!changes(mutation, start + from, bytes)) continue;
      this.#kept.set(granule);
      await this.#keep(start + from, bytes);
    }
  }

  async #readOld(start: number, target: Buffer): Promise<void> {
    this.#turnBytes += target.length;
    if (this.#turnBytes >= TURN_BYTES) {
      this.#turnBytes = 0;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    try {
      const reading = this.#options.readOld(start, target);
      if (reading instanceof Promise) await reading;
    } catch (error) {
      if (errorCode(error) !== 'EIO') throw error;
      const what = `what it held at ${start} can't be read: ${errorMessage(error)}`;
      throw new NotKeptError('EIO', what, { cause: error });
    }
  }

  async #keep(offset: number, bytes: Buffer): Promise<void> {
    const isZero = isAllZero(bytes);
    const last = this.#entries.at(-1);
    const joins =
      last !== undefined &&
      last.isZero === isZero &&
      last.offset + last.length === offset &&
      last.length + bytes.length <= MAX_ENTRY_BYTES;
    const isFull = !isZero && this.#payloadBytes + bytes.length > MAX_PAYLOAD_BYTES;
    if (isFull || (!joins && this.#entries.length === MAX_ENTRIES)) {
      await this.#writeBatch();
      return this.#keep(offset, bytes);
    }
    if (joins) this.#entries[this.#entries.length - 1] = { ...last, length: last.length + bytes.length };
    else this.#entries.push({ offset, length: bytes.length, isZero });
    if (isZero) return;
    bytes.copy(this.#space, BLOCK_BYTES + this.#payloadBytes);
    this.#payloadBytes += bytes.length;
  }

  async #writeBatch(): Promise<void> {
    if (this.#entries.length === 0) return;
    const length = batchBytes(this.#payloadBytes);
    const { maxBytes } = this.#options;
    if (this.#position + length > maxBytes) {
      throw new NotKeptError(
        'ENOSPC',
        `the undo log has reached its limit of ${formatBytes(maxBytes)} (--undo-bytes)`,
      );
    }
    const end = BLOCK_BYTES + this.#payloadBytes;
    const payloadCrc = crc32(this.#space.subarray(BLOCK_BYTES, end));
    this.#space.fill(0, end, length);
    encodeBatch(this.#space, this.head.id, {
      entries: this.#entries,
      groupStart: this.#groupStart,
      payloadBytes: this.#payloadBytes,
      payloadCrc,
    });
    await roomFor(() => this.#file.write(this.#position, this.#space.subarray(0, length)));
    this.#position += length;
    this.#entries = [];
    this.#payloadBytes = 0;
    if (this.#position - this.#groupStart >= MAX_GROUP_BYTES) await this.#syncGroup();
  }

  async #syncGroup(): Promise<void> {
    if (this.#position === this.#groupStart) return;
    await roomFor(() => this.#file.sync());
    this.#groupStart = this.#position;
  }

  #granulesOf(offset: number, length: number): [first: number, end: number] {
    return [Math.floor(offset / this.#granuleBytes), Math.ceil((offset + length) / this.#granuleBytes)];
  }
}

/** Whether `mutation` makes `bytes`, which lie at `offset`, something else. */
function changes(mutation: Mutation, offset: number, bytes: Buffer): boolean {
  const range = mutationRange(mutation);
  const from = Math.max(range.offset, offset);
  const to = Math.min(range.offset + range.length, offset + bytes.length);
  const there = bytes.subarray(from - offset, to - offset);
  if (mutation.kind !== 'write') return !isAllZero(there);
  return mutation.data.compare(there, 0, there.length, from - range.offset, to - range.offset) !== 0;
}

function granuleFor(sizeBytes: number): number {
  let bytes = MIN_GRANULE_BYTES;
  while (sizeBytes / bytes > MAX_GRANULES) bytes *= 2;
  return bytes;
}

/** Tells a full disk from other failures. */
async function roomFor<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EFBIG') throw error;
    throw new NotKeptError('ENOSPC', `the undo log has no room: ${errorMessage(error)}`, { cause: error });
  }
}
