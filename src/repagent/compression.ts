// Whether and how what goes to the hub is compressed: the modes of --hub-compress, what both sides can do, how hard to
// try on which link, and the compressing itself, on the thread pool. The figures behind it are in docs/LINK.md.
import { type BrotliOptions, brotliCompress, constants as zlib } from 'node:zlib';
import { MiB } from '../base/limits.ts';
import { FEATURE_BROTLI, hasFlag, PACK_CODECS, type PackCodec } from '../repwire/constants.ts';

/** auto: only while the link is what everything waits for, and slow. always: everything that shrinks. */
export const COMPRESS_MODES = ['off', 'auto', 'always'] as const;
export type CompressMode = (typeof COMPRESS_MODES)[number];

export interface Compression {
  readonly codec: PackCodec;
  readonly always: boolean;
}

/** Compresses `content`, and tells once; the content is left alone until then. */
export type Compress = (
  content: Buffer,
  quality: number,
  done: (error: Error | null, packed: Buffer) => void,
) => void;

/** What a HELLO says of a mode, as feature bits. */
export function compressionFeatures(mode: CompressMode): number {
  return mode === 'off' ? 0 : FEATURE_BROTLI;
}

/** @param hubFeatures of the hub's HELLO; 0 without one @returns undefined: nothing is compressed */
export function chooseCompression(mode: CompressMode, hubFeatures: number): Compression | undefined {
  if (mode === 'off' || !hasFlag(hubFeatures, PACK_CODECS.brotli.feature)) return undefined;
  return { codec: 'brotli', always: mode === 'always' };
}

/** Brotli's quality for links below a speed, bytes a second; the slowest first. */
export const QUALITY_STEPS = [
  { belowBytesPerSecond: 4 * MiB, quality: 5 },
  { belowBytesPerSecond: 60 * MiB, quality: 1 },
] as const;

/** What costs least. */
export const FASTEST_QUALITY = 0;

/**
 * How hard to try on a link of this speed.
 * @param bytesPerSecond undefined: nobody knows
 * @returns undefined where packing costs more time than it saves, or may do so
 */
export function qualityFor(bytesPerSecond: number | undefined): number | undefined {
  if (bytesPerSecond === undefined) return undefined;
  return QUALITY_STEPS.find((step) => bytesPerSecond < step.belowBytesPerSecond)?.quality;
}

const SPARE_BYTES = 1024;

/** How a load is compressed. */
export function brotliOptions(contentBytes: number, quality: number): BrotliOptions {
  const params = { [zlib.BROTLI_PARAM_QUALITY]: quality, [zlib.BROTLI_PARAM_SIZE_HINT]: contentBytes };
  // One piece of output holds whatever comes: the pool is entered once for each.
  return { chunkSize: contentBytes + SPARE_BYTES, params };
}

export const compressOnPool: Compress = (content, quality, done) => {
  brotliCompress(content, brotliOptions(content.length, quality), done);
};

/** Bytes that are looked at, in pieces of so many spread over all. */
const SAMPLE_BYTES = 2048;
const PIECE_BYTES = 64;

/** Bits in a byte of the sample above which it's taken for random: compressed already, or encrypted. */
const RANDOM_BITS = 7.5;

const counts = new Uint16Array(256);

/** Whether bytes are so evenly spread that trying would be wasted, by a sample of a few microseconds. */
export function looksRandom(parts: readonly Buffer[], totalBytes: number): boolean {
  counts.fill(0);
  let sampled = 0;
  const stride = Math.max(PIECE_BYTES, Math.floor((totalBytes / SAMPLE_BYTES) * PIECE_BYTES));
  for (const part of parts) {
    for (let at = 0; at + PIECE_BYTES <= part.length; at += stride) {
      for (let i = at; i < at + PIECE_BYTES; i += 1) counts[part[i]!]! += 1;
      sampled += PIECE_BYTES;
    }
  }
  if (sampled < SAMPLE_BYTES / 2) return false;
  let bits = 0;
  for (const count of counts) if (count > 0) bits -= count * Math.log2(count / sampled);
  return bits / sampled > RANDOM_BITS;
}
