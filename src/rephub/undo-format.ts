// The bytes of an undo log. Pure. A head that never changes, a state that is rewritten in place, then batches: one block
// that describes what was kept, and the old bytes behind it. Every part carries a checksum, and every batch the log's
// id, so that neither a torn end nor what another file left on the disk is ever taken for a batch.
//
//   0      head: JSON with its SHA-256, padded with zeroes
//   4096   state: the same
//   8192   batches, each at a multiple of 4096: descriptor block, then the payload, padded
import { crc32 } from 'node:zlib';
import { KiB, MiB } from '../base/limits.ts';
import { openSealed, sealText } from '../base/sealed-text.ts';
import type { RecoveryPoint } from './recovery-point.ts';

const VERSION = 1;

export const BLOCK_BYTES = 4 * KiB;
export const STATE_OFFSET = BLOCK_BYTES;
export const BATCHES_OFFSET = 2 * BLOCK_BYTES;

/** Most old bytes of one batch. */
export const MAX_PAYLOAD_BYTES = 1 * MiB;

/** A disk writes so much whole or not at all: the state is rewritten in place. */
const SECTOR_BYTES = 512;

export interface UndoHead {
  /** Random, 32 hexadecimal digits: tells this log's batches from any other's. */
  readonly id: string;
  /** The image that it belongs to, as the image's look or else its path tells it. */
  readonly image: string;
  readonly volumeName: string;
  /** The image's when the log was begun. */
  readonly sizeBytes: number;
  /** What the image is put back to. */
  readonly point: RecoveryPoint;
  /** Unix milliseconds. */
  readonly createdAtMs: number;
}

/**
 * `open`: the image can be put back. `givenUp`: it can't, since changes were made that were not kept. `recovering`: it
 * is being put back, and is nobody's until that is done.
 */
export type UndoState = 'open' | 'givenUp' | 'recovering';

/** A range and its old bytes: in the payload, or all of them zero. */
export interface UndoEntry {
  readonly offset: number;
  readonly length: number;
  readonly isZero: boolean;
}

export interface UndoBatch {
  readonly entries: readonly UndoEntry[];
  /** Where the batches begin that were made durable together with this one. */
  readonly groupStart: number;
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

export function encodeHead(head: UndoHead): Buffer {
  return encodeBlock({ version: VERSION, ...head });
}

/** @returns undefined when it is damaged, or of another version */
export function decodeHead(block: Buffer): UndoHead | undefined {
  const head = decodeBlock(block) as (UndoHead & { readonly version: number }) | undefined;
  return head?.version === VERSION ? head : undefined;
}

/** @param reason as much of it is kept as fits into a sector */
export function encodeState(id: string, state: UndoState, reason: string): Buffer {
  for (let length = Math.min(reason.length, SECTOR_BYTES); ; length -= 1) {
    const block = encodeBlock({ id, state, reason: reason.slice(0, length) });
    if (block.indexOf(10) < SECTOR_BYTES) return block;
  }
}

/** @returns undefined when it is damaged, or another log's */
export function decodeState(id: string, block: Buffer): { state: UndoState; reason: string } | undefined {
  const state = decodeBlock(block) as { id: string; state: UndoState; reason: string } | undefined;
  return state?.id === id ? state : undefined;
}

const MAGIC = 0x4f444e55; // "UNDO"
const AT_COUNT = 4;
const AT_ID = 8;
const AT_GROUP = 24;
const AT_PAYLOAD = 32;
const AT_PAYLOAD_CRC = 36;
const AT_ENTRIES = 40;
const ENTRY_BYTES = 16;
const AT_CRC = BLOCK_BYTES - 4;

/** Most entries of one batch. */
export const MAX_ENTRIES = Math.floor((AT_CRC - AT_ENTRIES) / ENTRY_BYTES);

/** Most bytes of one entry: what its field holds, in whole blocks. */
export const MAX_ENTRY_BYTES = 1024 * MiB;

/** Where the batch after one with so much payload begins. */
export function batchBytes(payloadBytes: number): number {
  return BLOCK_BYTES + Math.ceil(payloadBytes / BLOCK_BYTES) * BLOCK_BYTES;
}

/** Writes a descriptor into the first block of `target`. */
export function encodeBatch(target: Buffer, id: string, batch: UndoBatch): void {
  const block = target.subarray(0, BLOCK_BYTES).fill(0);
  block.writeUInt32LE(MAGIC, 0);
  block.writeUInt32LE(batch.entries.length, AT_COUNT);
  block.write(id, AT_ID, 16, 'hex');
  block.writeBigUInt64LE(BigInt(batch.groupStart), AT_GROUP);
  block.writeUInt32LE(batch.payloadBytes, AT_PAYLOAD);
  block.writeUInt32LE(batch.payloadCrc, AT_PAYLOAD_CRC);
  batch.entries.forEach((entry, index) => {
    const at = AT_ENTRIES + index * ENTRY_BYTES;
    block.writeBigUInt64LE(BigInt(entry.offset), at);
    block.writeUInt32LE(entry.length, at + 8);
    block.writeUInt32LE(entry.isZero ? 0 : 1, at + 12);
  });
  block.writeUInt32LE(crc32(block.subarray(0, AT_CRC)), AT_CRC);
}

/** @returns undefined when the block is no descriptor of the log `id` */
export function decodeBatch(block: Buffer, id: string): UndoBatch | undefined {
  if (block.readUInt32LE(0) !== MAGIC || block.toString('hex', AT_ID, AT_ID + 16) !== id) return undefined;
  if (block.readUInt32LE(AT_CRC) !== crc32(block.subarray(0, AT_CRC))) return undefined;
  const count = block.readUInt32LE(AT_COUNT);
  if (count > MAX_ENTRIES) return undefined;
  const entries: UndoEntry[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = AT_ENTRIES + index * ENTRY_BYTES;
    entries.push({
      offset: Number(block.readBigUInt64LE(at)),
      length: block.readUInt32LE(at + 8),
      isZero: block.readUInt32LE(at + 12) === 0,
    });
  }
  return {
    entries,
    groupStart: Number(block.readBigUInt64LE(AT_GROUP)),
    payloadBytes: block.readUInt32LE(AT_PAYLOAD),
    payloadCrc: block.readUInt32LE(AT_PAYLOAD_CRC),
  };
}

function encodeBlock(content: object): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.write(sealText(content));
  return block;
}

function decodeBlock(block: Buffer): object | undefined {
  const end = block.indexOf(10);
  return end === -1 ? undefined : openSealed(block.toString('utf8', 0, end));
}
