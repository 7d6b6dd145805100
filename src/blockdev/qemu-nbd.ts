// Images in formats that QEMU knows and this project does not: opened by a local qemu-nbd, used over NBD. When that
// process dies the image is gone: every call fails at once, with the reason it gave.
import fs from 'node:fs';
import { BlockError, OperationError, UsageError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits, Extent } from './block-device.ts';
import { openNbdDevice } from './nbd-client/index.ts';
import { QemuNbdProcess, START_TIMEOUT_MS } from './qemu-nbd-process.ts';

export interface QemuImageOptions {
  readonly path: string;
  /** As qemu-img names it: qcow2, vmdk, vhdx, vpc, vdi, qed and more. */
  readonly format: string;
  readonly readOnly?: boolean;
  readonly logger: Logger;
  /** The qemu-nbd program, for tests. */
  readonly program?: string;
}

/** How long calls wait for a connection that broke while the process lives, milliseconds. */
const RECONNECT_TIMEOUT_MS = 1000;

/** The formats that people have; qemu-nbd itself is asked about any other. */
export const COMMON_FORMATS = ['raw', 'qcow2', 'vmdk', 'vhdx', 'vpc', 'vdi', 'qed', 'parallels'] as const;

/**
 * Opens an image through a qemu-nbd of its own.
 * @throws UsageError when `format` can't be the name of one
 * @throws OperationError when the image or qemu-nbd is missing, or with the reason qemu-nbd gives
 */
export async function openQemuImage(options: QemuImageOptions): Promise<QemuImage> {
  const { path, format, logger, program } = options;
  const readOnly = options.readOnly ?? false;
  if (!/^[a-z][a-z0-9_-]*$/.test(format)) {
    throw new UsageError(
      `--format ${JSON.stringify(format)}: not a format; use one of ${COMMON_FORMATS.join(', ')}`,
    );
  }
  if (!fs.existsSync(path)) {
    throw new OperationError(`${path}: there is no such image`, {
      hint: `check the path, or make it: qemu-img create -f ${format} ${path} 20G`,
    });
  }
  const server = await QemuNbdProcess.start({ path, format, readOnly, logger, ...(program && { program }) });
  try {
    const device = await openNbdDevice(`nbd+unix:///?socket=${encodeURIComponent(server.socketPath)}`, {
      logger,
      readOnly,
      connectTimeoutMs: START_TIMEOUT_MS,
      reconnectTimeoutMs: RECONNECT_TIMEOUT_MS,
      // A process that died is not replaced, so nothing is kept for its successor.
      unflushedBytes: 0,
      // It serves one.
      connections: 1,
    });
    logger.info({ path, format, pid: server.pid }, 'opened the image through qemu-nbd');
    server.watch();
    return new QemuImage(device, server);
  } catch (error) {
    const failure = await server.openFailure(error);
    await server.stop();
    throw failure;
  }
}

export class QemuImage implements BlockDevice {
  readonly #device: BlockDevice;
  readonly #server: QemuNbdProcess;
  #closing: Promise<void> | undefined;

  constructor(device: BlockDevice, server: QemuNbdProcess) {
    this.#device = device;
    this.#server = server;
  }

  /** The process that serves the image. */
  get pid(): number | undefined {
    return this.#server.pid;
  }

  get sizeBytes(): number {
    return this.#device.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#device.limits;
  }

  read(offset: number, target: Buffer): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.read(offset, target);
  }

  write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.write(offset, data, fua);
  }

  flush(): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.flush();
  }

  trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.trim(offset, length, fua);
  }

  writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.writeZeroes(offset, length, fua, mayTrim);
  }

  cache(offset: number, length: number): MaybePromise<void> {
    this.#checkAlive();
    return this.#device.cache(offset, length);
  }

  extents(offset: number, length: number, maxExtents?: number): MaybePromise<Extent[]> {
    this.#checkAlive();
    return this.#device.extents(offset, length, maxExtents);
  }

  /** The format's own tool does that, while nobody has the image open. @throws BlockError always */
  resize(_sizeBytes: number): never {
    throw new BlockError(
      'ENOTSUP',
      'only raw images grow while they are served; stop, use qemu-img resize, start',
    );
  }

  /** Closes the connection, then ends the process, which writes out what it holds. */
  close(): Promise<void> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  async #finish(): Promise<void> {
    try {
      await this.#device.close();
    } finally {
      await this.#server.stop();
    }
  }

  #checkAlive(): void {
    if (this.#closing) return; // The device below answers ESHUTDOWN.
    const { failure } = this.#server;
    if (failure !== undefined) throw new BlockError('EIO', failure);
  }
}
