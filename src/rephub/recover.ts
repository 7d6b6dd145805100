// Puts the image of a replica back to the last state of its volume that it held, while no hub runs. It changes nothing
// before all of the undo log was found whole, and can be killed and run again at any moment: the log stays until the
// image is durable and its record says so.
import { errorMessage, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { RecordPlace } from './record-file.ts';
import { isOutdated, type RecoveryPoint } from './recovery-point.ts';
import type { ImageLook, ReplicaRecord } from './replica-record.ts';
import type { UndoFile, UndoPlace } from './undo-file.ts';
import { BATCHES_OFFSET, encodeState, STATE_OFFSET, type UndoBatch } from './undo-format.ts';
import { imageName, LOG_IS_GONE, readContent, type UndoContent, walkBatches } from './undo-reader.ts';
import { CONFLICTS, judgeImage } from './verdict.ts';

/** The image, as far as a recovery needs it. */
export type RecoverableImage = Pick<BlockDevice, 'sizeBytes' | 'write' | 'writeZeroes' | 'flush' | 'close'>;

export interface RecoverOptions {
  readonly path: string;
  readonly record: RecordPlace;
  readonly undo: UndoPlace;
  /** Opens the image for this process alone. @throws OperationError */
  readonly openImage: () => Promise<RecoverableImage>;
  /** @param durably it won't look older than that after a power failure */
  readonly look: (durably: boolean) => Promise<ImageLook | undefined>;
  /** Only find out what would be done. */
  readonly checkOnly: boolean;
  readonly logger: Logger;
}

export interface Recovery {
  /** What the image holds now, or would. */
  readonly point: RecoveryPoint;
  /** Bytes that were put back, or would be; 0: it was there already. */
  readonly bytes: number;
}

/** @throws OperationError when there is nothing to go back to, or it can't be done, with the reason */
export async function recoverImage(options: RecoverOptions): Promise<Recovery> {
  const image = await options.openImage();
  try {
    const loaded = await options.record.load();
    const record = loaded === 'damaged' ? undefined : loaded;
    const file = await options.undo.open();
    if (!file) return await asItIs(options, record);
    try {
      return await putBack(options, image, record, file);
    } finally {
      await file.close();
    }
  } finally {
    await image.close();
  }
}

/** Nothing was being overwritten when the hub ended. */
async function asItIs(options: RecoverOptions, record: ReplicaRecord | undefined): Promise<Recovery> {
  const { path } = options;
  if (!record) {
    throw new OperationError(
      `nothing is known of what ${path} holds: there is no record of it that can be read`,
      {
        hint: 'name it as the hub did: NAME=PATH with its --state-dir, or the path of a replica below its --store',
      },
    );
  }
  checkImage(path, record, await options.look(false));
  if (record.undoId !== null) {
    throw new OperationError(`${path} can't be put back: ${LOG_IS_GONE}`, {
      hint: `put back ${options.undo.path} if you still have it; or start the hub and its agent, and wait until the volume is protected`,
    });
  }
  const { point } = record;
  if (!point) {
    throw new OperationError(`${path} holds no state of its volume: it never was complete, or was given up`, {
      hint: 'start the hub and its agent, and wait until the volume is protected',
    });
  }
  return { point: { ...point, isExact: point.isExact && record.isClean }, bytes: 0 };
}

async function putBack(
  options: RecoverOptions,
  image: RecoverableImage,
  record: ReplicaRecord | undefined,
  file: UndoFile,
): Promise<Recovery> {
  const { path, undo } = options;
  const content = await readContent(file, undo.path);
  const look = await options.look(false);
  checkLog(options, content, record, look);
  const { head } = content;
  let bytes = 0;
  const walk = (visit: (batch: UndoBatch, payload: Buffer) => Promise<void> | void): Promise<number> =>
    walkBatches(file, undo.path, head.id, visit);
  await walk(({ entries }) => {
    for (const { offset, length } of entries) {
      if (offset + length > image.sizeBytes) throw new OperationError(`${path} is smaller than its undo log`);
      bytes += length;
    }
  });
  if (options.checkOnly) return { point: head.point, bytes };
  // From here on the image is nobody's until this has been finished.
  await file.write(STATE_OFFSET, encodeState(head.id, 'recovering', ''));
  await file.sync();
  await walk((batch, payload) => writeBack(image, batch, payload));
  await image.flush();
  // What was put back is durable, and makes room for the record where the disk is full.
  await file.truncate(BATCHES_OFFSET);
  await file.sync();
  if (record) {
    const now = (await options.look(true)) ?? record.image;
    const { point } = head;
    const writtenAtMs = Date.now();
    await options.record.save({ ...record, image: now, point, undoId: null, isClean: true, writtenAtMs });
  }
  await undo.remove();
  options.logger.info({ path, point: head.point, bytes }, 'the image was put back');
  return { point: head.point, bytes };
}

async function writeBack(image: RecoverableImage, { entries }: UndoBatch, payload: Buffer): Promise<void> {
  let from = 0;
  for (const { offset, length, isZero } of entries) {
    if (isZero) {
      await image.writeZeroes(offset, length, false, true);
      continue;
    }
    await image.write(offset, payload.subarray(from, from + length), false);
    from += length;
  }
}

function checkLog(
  { path, undo }: RecoverOptions,
  { head, state, reason }: UndoContent,
  record: ReplicaRecord | undefined,
  look: ImageLook | undefined,
): void {
  if (head.image !== imageName(path, look)) {
    throw new OperationError(`the undo log ${undo.path} belongs to another image than ${path}`, {
      hint: 'the image was replaced or copied; put the one back that the hub had, or move the log away',
    });
  }
  if (state === 'givenUp') {
    throw new OperationError(`${path} can't be put back: ${reason}`, {
      hint: 'start the hub and its agent, and wait until the volume is protected',
    });
  }
  if (!record) return;
  if (isOutdated(head.point, record)) {
    throw new OperationError(
      `the undo log ${undo.path} is out of date: the replica has been further since, or was changed by others`,
      { hint: 'nothing can be put back by it; move it away' },
    );
  }
  // What an earlier attempt changed is no stranger's doing.
  if (state === 'open') checkImage(path, record, look);
}

function checkImage(path: string, record: ReplicaRecord, look: ImageLook | undefined): void {
  const conflict = look && record.image ? judgeImage(record, record.image, look) : undefined;
  if (!conflict) return;
  throw new OperationError(`${path} can't be relied on: ${CONFLICTS[conflict]}`, {
    hint: 'what others changed in it nobody can take back',
  });
}

/** As people are told. */
export function recoveryFailed(path: string, error: unknown): OperationError {
  if (error instanceof OperationError) return error;
  return new OperationError(`${path} could not be put back: ${errorMessage(error)}`, {
    hint: 'nothing is lost; run it again once the cause is gone',
    cause: error,
  });
}
