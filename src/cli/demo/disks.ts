// The demo's two disks: one with content as a used disk has it, one empty; and the digest that compares them.
import { randomFillSync } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { MiB } from '../../base/limits.ts';

export const DISK_BYTES = 256 * MiB;

/** Data in runs with holes between them, so that skipping zeroes has something to skip. */
const RUN_BYTES = 8 * MiB;
const PERIOD_BYTES = 20 * MiB;

/** @returns bytes of data that were written */
export function createUsedDisk(path: string): number {
  const chunk = Buffer.allocUnsafe(MiB);
  const fd = openSync(path, 'wx');
  let dataBytes = 0;
  try {
    ftruncateSync(fd, DISK_BYTES);
    for (let at = 0; at + chunk.length <= DISK_BYTES; at += chunk.length) {
      if (at % PERIOD_BYTES >= RUN_BYTES) continue;
      randomFillSync(chunk);
      dataBytes += writeSync(fd, chunk, 0, chunk.length, at);
    }
  } finally {
    closeSync(fd);
  }
  return dataBytes;
}

export function createEmptyDisk(path: string): void {
  const fd = openSync(path, 'wx');
  try {
    ftruncateSync(fd, DISK_BYTES);
  } finally {
    closeSync(fd);
  }
}
