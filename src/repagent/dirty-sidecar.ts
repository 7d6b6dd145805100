// A dirty map's shadow in a file: every bit that is set in memory is set there before the data is written, so that the
// end of the process at any moment loses none. Bits are taken away late, by someone who knows that the hub's own
// record covers them. What the file said when it was opened is judged in sidecar-finding.ts.
import { crc32 } from 'node:zlib';
import { Bitmap, PAGE_BITS, PAGE_BYTES } from '../base/bitmap.ts';
import type { Logger } from '../base/log.ts';
import type { ClaimFinding } from '../repwire/constants.ts';
import { KeptFile } from './kept-file.ts';
import { LOAD_BYTES, type SidecarFile } from './sidecar-file.ts';
import {
  examineSidecar,
  type ImageMark,
  isBelievable,
  type SidecarSituation,
  volumeMark,
} from './sidecar-finding.ts';
import {
  BITS_OFFSET,
  encodeHead,
  headOffset,
  MARK_BYTES,
  newestHead,
  type SidecarHead,
} from './sidecar-head.ts';

const FULL = Buffer.alloc(LOAD_BYTES, 0xff);

export interface SidecarOptions extends SidecarSituation {
  /** Makes each new bit durable before its data is written. */
  readonly exact: boolean;
  readonly logger: Logger;
  /** The file can't be written any more: from now on an end without close costs a comparison of the whole volume. */
  readonly onBroken: (error: unknown) => void;
}

export class DirtySidecar {
  /** What was found in the file when it was opened. */
  readonly finding: ClaimFinding;
  readonly granularityBytes: number;
  /** What is set in the file. Read only. */
  readonly bits: Bitmap;
  readonly #options: SidecarOptions;
  readonly #file: SidecarFile;
  readonly #kept: KeptFile;
  readonly #oneByte = Buffer.alloc(1);
  readonly #page = Buffer.alloc(PAGE_BYTES);
  #head: SidecarHead;
  /** Bits that are needless once the hub has recorded what made them so; a new change keeps its bit. */
  #offered: Bitmap | undefined;
  /** Bits of the file that are needless: all that is missing to take them away is the right time. */
  readonly #needless: Bitmap;
  #changes = 0;
  #bitWrites = 0;
  /** The bits are this process's own, from the first to the last. */
  #isAdopted = false;
  #isClosed = false;
  /** Counts adoptions: one that had to wait looks whether it is still the newest. */
  #adoptions = 0;

  /** Takes the file over: whatever it held before is read, judged, and from then on kept true. @throws Error with `code` */
  constructor(options: SidecarOptions) {
    const { file, sizeBytes, granularityBytes } = options;
    const { touchedAtMs } = file;
    this.#options = options;
    this.#file = file;
    this.#kept = new KeptFile({
      ...options,
      onBroken: (error) => {
        this.#offered = undefined;
        options.onBroken(error);
      },
      // From here on a bit that is not durable is one whose data waits for it.
      onSynced: () => {
        if (options.exact && !this.#head.isExact) this.#writeHead({ isExact: true });
      },
    });
    this.granularityBytes = granularityBytes;
    this.bits = new Bitmap(Math.ceil(sizeBytes / granularityBytes));
    this.#needless = new Bitmap(this.bits.sizeBits);
    const old = file.existed ? newestHead(file.read(0, BITS_OFFSET)) : undefined;
    this.finding = examineSidecar(old, this.bits, options);
    this.#head = this.#firstHead(old);
    file.extend(BITS_OFFSET + Math.ceil(this.bits.sizeBits / PAGE_BITS) * PAGE_BYTES);
    // The bits before the head that vouches for them, and before those the word that they mean nothing meanwhile.
    if (!this.isBelieved || old?.granularityBytes !== granularityBytes) {
      this.#writeHead({ isVoid: true });
      // An exact file is believed after a power failure too: it must not look younger before it is void for sure.
      if (options.exact && old) {
        file.touch(touchedAtMs);
        file.syncNow();
      }
      this.#rewrite();
    } else if (sizeBytes > old.sizeBytes) {
      this.mark(Math.floor(old.sizeBytes / granularityBytes), this.bits.sizeBits);
    }
    this.#writeHead({ isVoid: false });
    // Bits that were found may be the kernel's alone, of a process that was killed before their data was written.
    this.#kept.touched();
    // A power failure must not bring back a head that would be believed after it: its bits are of an earlier time.
    if (old?.isClean || old?.isExact) this.#kept.hold();
  }

  /** Whether the bits are all that the replica named by `pairing` may lack. */
  get isBelieved(): boolean {
    return isBelievable(this.finding);
  }

  get isBroken(): boolean {
    return this.#kept.isBroken;
  }

  /** What a hub is told of the map: once this process has kept it itself, there is nothing to doubt. */
  get claim(): { readonly isBelieved: boolean; readonly finding: ClaimFinding } {
    if (this.#isAdopted) return { isBelieved: true, finding: 'clean' };
    return { isBelieved: this.isBelieved, finding: this.finding };
  }

  /** 0: the bits are relative to no replica. */
  get pairing(): bigint {
    return this.#head.pairing;
  }

  get generation(): number {
    return this.#head.generation;
  }

  get recordedSequence(): number {
    return this.#head.recordedSequence;
  }

  /** Before a change of chunks [first, end) is begun. Never throws. */
  mark(first: number, end: number): void {
    this.#changes += 1;
    if (this.#offered) this.#offered.clear(first, end);
    if (this.#needless.count > 0) this.#needless.clear(first, end);
    if (end - first === 1) {
      if (this.bits.test(first)) return;
      this.#bitWrites += 1;
      this.bits.set(first);
      const byte = Math.floor(first / 8);
      this.#oneByte[0] = this.bits.byteAt(byte);
      this.#kept.write(this.#oneByte, BITS_OFFSET + byte);
      return;
    }
    if (this.bits.nextClear(first) >= end) return;
    this.#bitWrites += 1;
    this.bits.set(first, end);
    this.#putBytes(Math.floor(first / 8), Math.ceil(end / 8));
  }

  /** Everything is dirty. */
  markAll(): void {
    this.#offered = undefined;
    this.#needless.clearAll();
    if (this.bits.count === this.bits.sizeBits) return;
    this.bits.setAll();
    this.#rewrite();
  }

  /** What of the file's bits is not known to be needless, while this process lives. A copy. */
  needed(): Bitmap {
    const needed = new Bitmap(this.bits.sizeBits);
    needed.union(this.bits);
    needed.subtract(this.#needless);
    return needed;
  }

  /** The bits that will be needless, once that is allowed. @param bits the sidecar's from now on */
  offer(bits: Bitmap): void {
    this.#offered = bits;
  }

  /** Whether bits wait to be needless. */
  get isOffered(): boolean {
    return this.#offered !== undefined;
  }

  /** None of the offered bits is needless. */
  withdraw(): void {
    this.#offered = undefined;
  }

  /** What is still offered is needless: the hub has it in its record, and where the map is exact the disk has it too. */
  settle(): void {
    if (!this.#offered) return;
    this.#needless.union(this.#offered);
    this.#offered = undefined;
  }

  /** Bits that {@link retire} would take away. */
  get needlessCount(): number {
    return this.#needless.count;
  }

  /** Changes that were marked, and how many of them had to set a bit in the file. */
  get changes(): number {
    return this.#changes;
  }

  get bitWrites(): number {
    return this.#bitWrites;
  }

  /** Takes away some of the needless bits. @param maxPages pages to write at most @returns whether some are left */
  retire(maxPages: number): boolean {
    const needless = this.#needless;
    for (const page of needless.pageIndexes().slice(0, maxPages)) {
      this.bits.subtractPage(needless, page);
      needless.clearPage(page);
      this.bits.copyPage(page, this.#page);
      this.#kept.write(this.#page, BITS_OFFSET + page * PAGE_BYTES);
    }
    return needless.count > 0;
  }

  /** Whether every bit is durable before its data. */
  get isExact(): boolean {
    return this.#options.exact;
  }

  /** What has to be waited for before the data of a change that was marked may be written: always when exact. */
  durable(): Promise<void> | undefined {
    return this.#kept.durable();
  }

  /** The volume became larger; what is new is dirty. */
  grow(sizeBytes: number): void {
    const before = this.#head.sizeBytes;
    const chunks = Math.ceil(sizeBytes / this.granularityBytes);
    this.#offered?.grow(chunks);
    this.#needless.grow(chunks);
    this.bits.grow(chunks);
    this.#kept.attempt(() => this.#file.extend(BITS_OFFSET + Math.ceil(chunks / PAGE_BITS) * PAGE_BYTES));
    // The bits first: a file whose head knows more than its bits would lie.
    if (sizeBytes > before) this.mark(Math.floor(before / this.granularityBytes), chunks);
    this.#keepHead({ sizeBytes });
  }

  /** From here on the bits are relative to an attachment of a replica. Resolves when that is durable. */
  async adopt(pairing: bigint, generation: number): Promise<void> {
    this.#offered = undefined;
    this.#adoptions += 1;
    const adoption = this.#adoptions;
    const { exact } = this.#options;
    // After a power failure a head is believed there: what it vouches for has to be durable before.
    if (exact) await this.#kept.sync();
    if (adoption !== this.#adoptions || this.#isClosed) return;
    this.#isAdopted = true;
    this.#keepHead({ pairing, generation, recordedSequence: 0 });
    await this.#kept.sync();
  }

  /**
   * The hub's record has come to `sequence` of the present attachment. Resolves when that is durable: an agent that
   * forgot it by a power failure could not be told from one that was restored from an older copy.
   */
  recorded(sequence: number): Promise<void> {
    if (sequence > this.#head.recordedSequence) this.#keepHead({ recordedSequence: sequence });
    return this.#kept.sync();
  }

  /** A sign of life: an image that is much younger was changed by someone else. Called every few seconds. */
  touch(): void {
    if (this.#isClosed) return;
    this.#kept.attempt(() => this.#file.touch());
    this.#kept.retry();
  }

  /** Closes in order; the bits may be believed when the image is still the same at the next start. Idempotent. */
  async close(image: ImageMark | undefined): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    while (this.retire(this.#needless.pageCount));
    await this.#kept.sync();
    this.#kept.attempt(() => {
      this.#writeHead({
        isClean: true,
        bitsCrc32: this.#crc(),
        image: image?.mark ?? Buffer.alloc(MARK_BYTES),
      });
    });
    await this.#kept.sync();
    this.#kept.close();
  }

  #firstHead(old: SidecarHead | undefined): SidecarHead {
    const { agentId, volumeName, sizeBytes, bootId, exact } = this.#options;
    // Even where the bits are worth nothing, whose replica it was is worth knowing.
    const isOurs = old && this.finding !== 'foreign' && this.finding !== 'new';
    if (!this.isBelieved) this.bits.setAll();
    // What is rewritten now is not durable yet, and what an agent wrote that didn't care may not be either.
    const isDurable =
      this.isBelieved &&
      old?.granularityBytes === this.granularityBytes &&
      old.sizeBytes === sizeBytes &&
      (old.isExact || old.isClean);
    return {
      counter: old?.counter ?? 0,
      sizeBytes,
      granularityBytes: this.granularityBytes,
      isClean: false,
      isExact: exact && isDurable,
      isVoid: false,
      isLeft: false,
      bitsCrc32: 0,
      agentId,
      volume: volumeMark(volumeName),
      bootId,
      image: Buffer.alloc(MARK_BYTES),
      pairing: isOurs ? old.pairing : 0n,
      generation: isOurs ? old.generation : 0,
      recordedSequence: isOurs ? old.recordedSequence : 0,
    };
  }

  /** In memory at least: what this process knows of the replica stays true when its file can't be written. */
  #keepHead(change: Partial<SidecarHead>): void {
    if (this.#kept.isBroken) this.#writeHead(change);
    else this.#kept.attempt(() => this.#writeHead(change));
  }

  #writeHead(change: Partial<SidecarHead>): void {
    const counter = this.#head.counter + 1;
    this.#head = { ...this.#head, ...change, counter };
    if (!this.#kept.isBroken) this.#file.write(encodeHead(this.#head), headOffset(counter));
  }

  /** Writes all bits. */
  #rewrite(): void {
    if (this.bits.count < this.bits.sizeBits) {
      this.#putBytes(0, Math.ceil(this.bits.sizeBits / 8));
      return;
    }
    // Bits beyond the end mean nothing, and are passed over when they are read.
    const end = Math.ceil(this.bits.sizeBits / 8);
    for (let at = 0; at < end; at += LOAD_BYTES) {
      this.#kept.write(FULL.subarray(0, Math.min(LOAD_BYTES, end - at)), BITS_OFFSET + at);
    }
  }

  #putBytes(first: number, end: number): void {
    for (let at = first; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES);
      const to = Math.min(end, (page + 1) * PAGE_BYTES);
      this.bits.copyPage(page, this.#page);
      const from = page * PAGE_BYTES;
      this.#kept.write(this.#page.subarray(at - from, to - from), BITS_OFFSET + at);
      at = to;
    }
  }

  #crc(): number {
    let crc = 0;
    const pages = Math.ceil(this.bits.sizeBits / PAGE_BITS);
    const end = BITS_OFFSET + pages * PAGE_BYTES;
    for (let at = BITS_OFFSET; at < end; at += LOAD_BYTES) {
      crc = crc32(this.#file.read(at, Math.min(LOAD_BYTES, end - at)), crc);
    }
    return crc;
  }
}
