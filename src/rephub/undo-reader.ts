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

/** How a log knows its image. @param path of the image @param look how it looks; undefined: that tells nothing */
export function imageName(path: string, look: ImageLook | undefined): string {
  return look?.identity ?? `path:${path}`;
}

/** What a log says of the image, without going through it. What can't be read says nothing to rely on. */
export async function peekUndo(place: UndoPlace, image: string): Promise<UndoStatus> {
  const file = await place.open().catch(() => undefined);
  if (!file) return { state: 'none' };
  try {
    const { head, state, reason } = await readContent(file, place.path);
    if (head.image !== image) return { state: 'none' };
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
 * Goes over the batches in order.
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
  const space = Buffer.alloc(MAX_PAYLOAD_BYTES);
  let position = BATCHES_OFFSET;
  for (;;) {
    const read = await file.read(position, block);
    if (read === 0) return position;
    const batch = read === BLOCK_BYTES ? decodeBatch(block, id) : undefined;
    const payload = batch && (await readPayload(file, position, batch, space));
    if (!batch || !payload) break;
    await visit(batch, payload);
    position += batchBytes(batch.payloadBytes);
  }
  // What was under way when all ended may lie there in part, in any order. What was begun later may not.
  for (let at = position; at < file.sizeBytes; at += BLOCK_BYTES) {
    if ((await file.read(at, block)) < BLOCK_BYTES) break;
    const later = decodeBatch(block, id);
    if (later && later.groupStart > position) throw damaged(path, `what lies at ${position} is not whole`);
  }
  return position;
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

function damaged(path: string, what: string): OperationError {
  return new OperationError(`the undo log ${path} is damaged: ${what}`, {
    hint: 'the replica can not be put back; once that is accepted, move the log away, and synchronise anew',
  });
}
