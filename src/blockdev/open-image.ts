// Opens whatever a user names as an image: a raw file or block device, an upstream NBD server, or a format that a
// local qemu-nbd knows. What it returns keeps overlapping changes in the order of arrival.
import fs from 'node:fs';
import { OperationError, UsageError } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { BlockDevice } from './block-device.ts';
import { openFileDevice } from './file-device.ts';
import { guessFormat } from './image-format.ts';
import { openNbdDevice } from './nbd-client/index.ts';
import { OrderedDevice } from './ordered-device.ts';
import { openQemuImage } from './qemu-nbd.ts';

export interface OpenImageOptions {
  /** A path, or nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH. */
  readonly source: string;
  /** `raw`, or a format that qemu-nbd opens. Default raw. */
  readonly format?: string | undefined;
  readonly readOnly?: boolean;
  /** Connections to an NBD server that allows several; 1 unless given. */
  readonly upstreamConnections?: number | undefined;
  /** Create a missing raw image of this size, bytes, sparse. One that exists must have it. */
  readonly createSizeBytes?: number | undefined;
  readonly logger: Logger;
}

/**
 * Opens an image.
 * @throws UsageError when the options don't go together
 * @throws OperationError with the next step, when the image can't be opened
 */
export async function openImage(options: OpenImageOptions): Promise<OrderedDevice> {
  const {
    source,
    format = 'raw',
    readOnly = false,
    createSizeBytes,
    upstreamConnections = 1,
    logger,
  } = options;
  const isUri = isNbdSource(source);
  if (isUri && format !== 'raw') {
    throw new UsageError(
      `--format ${format} is for files; what ${source} serves is taken as it is (leave out --format)`,
    );
  }
  if (createSizeBytes !== undefined && (isUri || format !== 'raw')) {
    const instead = isUri ? 'an NBD export is made on its server' : `use qemu-img create -f ${format}`;
    throw new UsageError(`--create makes raw images only; ${instead}`);
  }
  if (isUri) {
    const connections = upstreamConnections;
    return checked(await openNbdDevice(source, { logger, readOnly, connections }), source);
  }
  if (format !== 'raw')
    return checked(await openQemuImage({ path: source, format, readOnly, logger }), source);
  const device = await openFileDevice({ path: source, readOnly, createSizeBytes, logger });
  warnOfFormat(source, logger);
  return device;
}

/** Whether an image is named by NBD URI (also by one that is wrong: the URI's parser says how) and not by path. */
export function isNbdSource(source: string): boolean {
  return /^nbds?(\+[a-z]+)?:/i.test(source);
}

/** A disk that isn't a whole number of sectors could not be replicated. */
async function checked(device: BlockDevice, source: string): Promise<OrderedDevice> {
  const { sizeBytes } = device;
  if (sizeBytes > 0 && sizeBytes % SECTOR_BYTES === 0) return new OrderedDevice(device);
  await device.close();
  throw new OperationError(
    `${source} has ${sizeBytes} bytes, which is not a positive multiple of ${SECTOR_BYTES}`,
    { hint: 'resize the disk where it is served' },
  );
}

function warnOfFormat(source: string, logger: Logger): void {
  const guess = guessFormat(firstBytes(source));
  if (guess === undefined) return;
  logger.warn(
    { path: source, format: guess },
    `the image looks like ${guess} but is served raw; with --format ${guess} clients see the disk inside`,
  );
}

function firstBytes(source: string): Buffer {
  const head = Buffer.alloc(512);
  const fd = fs.openSync(source, 'r');
  try {
    return head.subarray(0, fs.readSync(fd, head, 0, head.length, 0));
  } finally {
    fs.closeSync(fd);
  }
}
