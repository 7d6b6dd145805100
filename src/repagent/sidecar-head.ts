// The head of a dirty map's file: whose map it is, relative to what, and whether its bits may be believed. Two copies
// lie in the file and are written in turn, so that a torn write leaves the older one. A head that is not exactly what
// was written is none.
import { crc32 } from 'node:zlib';
import { bytes, struct } from '../wire/struct.ts';

/** "RPDIRTY1", little-endian. */
const SIDECAR_MAGIC = 0x3159_5452_4944_5052n;
const SIDECAR_VERSION = 1;

/** Where the two copies lie, and where the bits begin. Each has a page of its own. */
export const HEAD_SLOT_BYTES = 4096;
export const BITS_OFFSET = 2 * HEAD_SLOT_BYTES;

/** Bytes of what names a volume and an image: a SHA-256, cut. */
export const MARK_BYTES = 16;

const FLAG_CLEAN = 1;
const FLAG_EXACT = 2;
const FLAG_VOID = 4;
const FLAG_LEFT = 8;

const layout = struct('SIDECAR', 'le', {
  magic: 'u64',
  version: 'u32',
  flags: 'u32',
  counter: 'size64',
  size_bytes: 'size64',
  granularity_bytes: 'u32',
  bits_crc32: 'u32',
  agent_id: bytes(16),
  volume: bytes(MARK_BYTES),
  boot_id: bytes(16),
  image: bytes(MARK_BYTES),
  pairing: 'u64',
  generation: 'size64',
  recorded_sequence: 'size64',
  head_crc32: 'u32',
});

const CRC_AT = layout.sizeBytes - 4;

export interface SidecarHead {
  /** Grows with every write; the higher of the two copies counts. */
  readonly counter: number;
  /** Of the volume. */
  readonly sizeBytes: number;
  readonly granularityBytes: number;
  /** The file was closed in order: the bits are whole, and `bitsCrc32` is theirs. */
  readonly isClean: boolean;
  /** Every bit was durable before its data: what is here may be believed even after a power failure. */
  readonly isExact: boolean;
  /** The bits are being rewritten: they mean nothing. */
  readonly isVoid: boolean;
  /** The volume was served without this map: the bits are of an earlier time. */
  readonly isLeft: boolean;
  readonly bitsCrc32: number;
  readonly agentId: Buffer;
  /** Names the volume. */
  readonly volume: Buffer;
  /** Under which the file was last open. */
  readonly bootId: Buffer;
  /** Names the state of the protected image when the file was closed; zero: unknown. */
  readonly image: Buffer;
  /** What the bits are relative to: a replica's pairing, 0 for none, and which attachment. */
  readonly pairing: bigint;
  readonly generation: number;
  /** In that attachment: the newest position that the hub said is in its own durable record. */
  readonly recordedSequence: number;
}

export function encodeHead(head: SidecarHead): Buffer {
  const page = Buffer.alloc(HEAD_SLOT_BYTES);
  layout.encodeInto(
    {
      magic: SIDECAR_MAGIC,
      version: SIDECAR_VERSION,
      flags:
        (head.isClean ? FLAG_CLEAN : 0) +
        (head.isExact ? FLAG_EXACT : 0) +
        (head.isVoid ? FLAG_VOID : 0) +
        (head.isLeft ? FLAG_LEFT : 0),
      counter: head.counter,
      size_bytes: head.sizeBytes,
      granularity_bytes: head.granularityBytes,
      bits_crc32: head.bitsCrc32,
      agent_id: head.agentId,
      volume: head.volume,
      boot_id: head.bootId,
      image: head.image,
      pairing: head.pairing,
      generation: head.generation,
      recorded_sequence: head.recordedSequence,
      head_crc32: 0,
    },
    page,
  );
  page.writeUInt32LE(crc32(page.subarray(0, CRC_AT)), CRC_AT);
  return page;
}

/** @param page at least the bytes of one copy @returns undefined when it is not a whole head of this version */
function decodeHead(page: Buffer): SidecarHead | undefined {
  if (page.length < layout.sizeBytes) return undefined;
  if (crc32(page.subarray(0, CRC_AT)) !== page.readUInt32LE(CRC_AT)) return undefined;
  if (page.readBigUInt64LE(0) !== SIDECAR_MAGIC || page.readUInt32LE(8) !== SIDECAR_VERSION) return undefined;
  const raw = layout.decode(Buffer.from(page.subarray(0, layout.sizeBytes)));
  return {
    counter: raw.counter,
    sizeBytes: raw.size_bytes,
    granularityBytes: raw.granularity_bytes,
    isClean: (raw.flags & FLAG_CLEAN) !== 0,
    isExact: (raw.flags & FLAG_EXACT) !== 0,
    isVoid: (raw.flags & FLAG_VOID) !== 0,
    isLeft: (raw.flags & FLAG_LEFT) !== 0,
    bitsCrc32: raw.bits_crc32,
    agentId: raw.agent_id,
    volume: raw.volume,
    bootId: raw.boot_id,
    image: raw.image,
    pairing: raw.pairing,
    generation: raw.generation,
    recordedSequence: raw.recorded_sequence,
  };
}

/** The newer of the two copies at the file's beginning. @param start the first BITS_OFFSET bytes, or fewer */
export function newestHead(start: Buffer): SidecarHead | undefined {
  const first = decodeHead(start.subarray(0, HEAD_SLOT_BYTES));
  const second = decodeHead(start.subarray(HEAD_SLOT_BYTES));
  if (!first || !second) return first ?? second;
  return second.counter > first.counter ? second : first;
}

/** Where the copy with this counter belongs. */
export function headOffset(counter: number): number {
  return (counter % 2) * HEAD_SLOT_BYTES;
}
