// What an undo log says: its head, its state, and its batches up to the torn end that a crash may have left. A log that
// is damaged anywhere else is told from one that merely ends early, and never read past the damage.
import { crc32 } from 'node:zlib';
import { errorMessage, OperationError } from '../base/errors.ts';
import type { ImageLook } from './replica-record.ts';
import type { UndoStatus } from './replica-store.ts';
import type { UndoFile, UndoPlace } from './undo-file.ts';
import {
  BATCHES_OFFSET,
  BLOCK_BYTES,
  batchBytes,
  decodeBatch,
  decodeHead,
  decodeState,
  MAX_PAYLOAD_BYTES,
  STATE_OFFSET,
  type UndoBatch,
  type UndoHead,
  type UndoState,
} from './undo-format.ts';

export interface UndoContent {
  readonly head: UndoHead;
  readonly state: UndoState;
  /** Why it was given up; else empty. */
  readonly reason: string;
}

/** How a log knows its image. @param path of the image, absolute @param look how it looks; undefined: that tells nothing */
export function imageName(path: string, look: ImageLook | undefined): string {
  return look?.identity ?? `path:${path}`;
}

/** Why there is no way back where there should be one. */
export const LOG_IS_GONE = 'it was being overwritten, and its undo log is gone';

/**
 * What a log says of the image, without going through it. What can't be read says nothing to rely on.
 * @param logId of the log that the image can't do without; null: none, as far as that is known
 */
export async function peekUndo(place: UndoPlace, image: string, logId: string | null): Promise<UndoStatus> {
  let file: UndoFile | undefined;
  try {
    file = await place.open();
  } catch (error) {
    return { state: 'givenUp', reason: errorMessage(error) };
  }
  const missing: UndoStatus = logId === null ? { state: 'none' } : { state: 'givenUp', reason: LOG_IS_GONE };
  if (!file) return missing;
  try {
    const { head, state, reason } = await readContent(file, place.path);
    if (head.image !== image) return missing;
    if (state === 'givenUp') return { state, reason };
    return { state: 'open', point: head.point, bytes: file.sizeBytes };
  } catch (error) {
    return { state: 'givenUp', reason: errorMessage(error) };
  } finally {
    await file.close();
  }
}

/** @throws OperationError when it is damaged; an error with `code` when it can't be read */
export async function readContent(file: UndoFile, path: string): Promise<UndoContent> {
  const blocks = Buffer.alloc(BATCHES_OFFSET);
  await file.read(0, blocks);
  const head = decodeHead(blocks.subarray(0, BLOCK_BYTES));
  const state = head && decodeState(head.id, blocks.subarray(STATE_OFFSET));
  if (!head || !state) throw damaged(path, 'its head can not be read');
  return { head, ...state };
}

/**
 * Goes over the batches in order, and over all that was kept.
 * @param visit is lent the batch and its payload
 * @returns where the next batch belongs
 * @throws OperationError when a batch is damaged that was durable once
 */
export async function walkBatches(
  file: UndoFile,
  path: string,
  id: string,
  visit: (batch: UndoBatch, payload: Buffer) => Promise<void> | void,
): Promise<number> {
  const block = Buffer.alloc(BLOCK_BYTES);
  const space = Buffer.allocUnsafe(MAX_PAYLOAD_BYTES);
  let position = BATCHES_OFFSET;
  for (;;) {
    const batch = await readDescriptor(file, position, id, block);
    const payload = batch && (await readPayload(file, position, batch, space));
    if (!batch || !payload) break;
    await visit(batch, payload);
    position += batchBytes(batch.payloadBytes);
  }
  await checkEnd(file, path, id, position);
  return position;
}

/**
 * Goes over the batches in order, and over the old bytes of the last group only: each group before was durable when the
 * next one was begun. What of the last one got to the file is written anew, so that the next sync makes it durable: if
 * one failed before, what a read sees need not be on the disk, ever.
 * @returns where the next batch belongs
 * @throws OperationError when a batch is damaged that was durable once
 */
export async function resumeBatches(
  file: UndoFile,
  path: string,
  id: string,
  visit: (batch: UndoBatch) => void,
): Promise<number> {
  const block = Buffer.alloc(BLOCK_BYTES);
  let group: Array<{ readonly position: number; readonly batch: UndoBatch }> = [];
  let position = BATCHES_OFFSET;
  for (;;) {
    const batch = await readDescriptor(file, position, id, block);
    if (!batch) break;
    if (group[0] && group[0].batch.groupStart !== batch.groupStart) {
      for (const before of group) visit(before.batch);
      group = [];
    }
    group.push({ position, batch });
    position += batchBytes(batch.payloadBytes);
  }
  const space = Buffer.allocUnsafe(batchBytes(MAX_PAYLOAD_BYTES));
  for (const { position: at, batch } of group) {
    const payload = await readPayload(file, at, batch, space.subarray(BLOCK_BYTES));
    if (!payload) {
      position = at;
      break;
    }
    await file.read(at, space.subarray(0, BLOCK_BYTES));
    await file.write(at, space.subarray(0, BLOCK_BYTES + payload.length));
    visit(batch);
  }
  await checkEnd(file, path, id, position);
  return position;
}

async function readDescriptor(
  file: UndoFile,
  position: number,
  id: string,
  block: Buffer,
): Promise<UndoBatch | undefined> {
  return (await file.read(position, block)) === BLOCK_BYTES ? decodeBatch(block, id) : undefined;
}

/** What was under way when all ended may lie there in part, in any order. What was begun later may not. */
async function checkEnd(file: UndoFile, path: string, id: string, end: number): Promise<void> {
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let at = end; at < file.sizeBytes; at += BLOCK_BYTES) {
    const later = await readDescriptor(file, at, id, block);
    if (later && later.groupStart > end) throw damaged(path, `what lies at ${end} is not whole`);
  }
}

async function readPayload(
  file: UndoFile,
  position: number,
  { payloadBytes, payloadCrc }: UndoBatch,
  space: Buffer,
): Promise<Buffer | undefined> {
  if (payloadBytes > space.length) return undefined;
  const payload = space.subarray(0, payloadBytes);
  const read = await file.read(position + BLOCK_BYTES, payload);
  return read === payloadBytes && crc32(payload) === payloadCrc ? payload : undefined;
}

/** A log that can't be used, so that its image can't be put back. */
export class UndoDamagedError extends OperationError {}

function damaged(path: string, what: string): UndoDamagedError {
  return new UndoDamagedError(
    `the undo log ${path} is damaged, so that the replica can't be put back: ${what}`,
    {
      hint: 'once that is accepted, move the log away: the replica is then made equal to the volume',
    },
  );
}
