// What a server says of an export, checked before anything relies on it. Must never pass on a size or a block size
// that this program can't honour: a client that trusted its server's sizes is an old hole.
import { KiB, MAX_DISK_BYTES, MAX_REQUEST_BYTES, SECTOR_BYTES } from '../base/limits.ts';
import { formatBytes } from '../base/size.ts';
import { HandshakeError } from './client-error.ts';
import { NBD_FLAG_HAS_FLAGS } from './constants.ts';
import type { ReplyStyle } from './reply.ts';

/** What the numbers of an export are once they have been checked. */
export interface ExportNumbers {
  /** Bytes; a multiple of 512 and of `minBlockBytes`, at most MAX_DISK_BYTES. */
  readonly sizeBytes: number;
  /** Transmission flags, NBD_FLAG_...; none count unless the server set HAS_FLAGS. */
  readonly flags: number;
  /** Every offset and length is a multiple of this, bytes; a power of two. */
  readonly minBlockBytes: number;
  /** The size at which a request is cheapest, bytes; a power of two. */
  readonly preferredBlockBytes: number;
  /** Largest payload of one READ or WRITE, bytes; a multiple of `minBlockBytes`, at most MAX_REQUEST_BYTES. */
  readonly maxPayloadBytes: number;
}

/** An export as it was agreed on. */
export interface NbdExport extends ExportNumbers {
  readonly style: ReplyStyle;
  /** The id under which BLOCK_STATUS tells base:allocation; undefined when the server doesn't. */
  readonly allocationId: number | undefined;
}

/** Bytes each. */
interface BlockSizes {
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maxPayloadBytes: number;
}

/** As the server sent it. */
export interface RawExport {
  readonly size: bigint;
  readonly flags: number;
  /** Undefined when the server told none. */
  readonly blockSizes: BlockSizes | undefined;
}

/** Largest minimum block size that the protocol allows, bytes. */
const MAX_MIN_BLOCK_BYTES = 64 * KiB;

/** Without advertised sizes: what doc/proto.md ("Size constraints") calls maximum interoperability. */
const DEFAULT_BLOCK_SIZES: BlockSizes = {
  minBlockBytes: SECTOR_BYTES,
  preferredBlockBytes: 4 * KiB,
  maxPayloadBytes: MAX_REQUEST_BYTES,
};

/**
 * Checks what a server said of an export.
 * @throws HandshakeError (kind `unsuitable`) naming the number that is wrong and what is allowed
 */
export function checkExport(raw: RawExport): ExportNumbers {
  const {
    minBlockBytes: minimum,
    preferredBlockBytes: preferred,
    maxPayloadBytes: maximum,
  } = raw.blockSizes ?? DEFAULT_BLOCK_SIZES;
  if (!isPowerOfTwo(minimum) || minimum > MAX_MIN_BLOCK_BYTES) {
    throw unsuitable(
      `the server's minimum block size is ${minimum} bytes; it must be a power of two up to ${MAX_MIN_BLOCK_BYTES}`,
    );
  }
  const least = Math.max(minimum, SECTOR_BYTES);
  if (maximum < least) {
    throw unsuitable(`the server takes requests of at most ${maximum} bytes; at least ${least} are needed`);
  }
  const largest = Math.min(maximum, MAX_REQUEST_BYTES);
  return {
    sizeBytes: checkSize(raw.size, minimum),
    flags: (raw.flags & NBD_FLAG_HAS_FLAGS) !== 0 ? raw.flags : 0,
    minBlockBytes: minimum,
    // Only advice: a value that makes no sense is replaced, not refused.
    preferredBlockBytes: isPowerOfTwo(preferred)
      ? Math.max(minimum, Math.min(preferred, MAX_REQUEST_BYTES))
      : Math.max(minimum, DEFAULT_BLOCK_SIZES.preferredBlockBytes),
    maxPayloadBytes: largest - (largest % least),
  };
}

function checkSize(size: bigint, minimum: number): number {
  if (size > BigInt(MAX_DISK_BYTES)) {
    throw unsuitable(
      `the export is ${size} bytes large; at most ${MAX_DISK_BYTES} (${formatBytes(MAX_DISK_BYTES)}) are possible`,
    );
  }
  const sizeBytes = Number(size);
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw unsuitable(
      `the export is ${sizeBytes} bytes large, which is no multiple of ${SECTOR_BYTES}; ` +
        `make it ${Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES} bytes on the server`,
    );
  }
  if (sizeBytes % minimum !== 0) {
    throw unsuitable(
      `the export is ${sizeBytes} bytes large, which is no multiple of its minimum block size ${minimum}; ` +
        'its last bytes could not be reached',
    );
  }
  return sizeBytes;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}

function unsuitable(message: string): HandshakeError {
  return new HandshakeError('unsuitable', message);
}
