// Looks at a disk image the way a recovery would: is the file system sound, what files does it hold.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect } from 'vitest';
import { runPeer, runPeerOk } from '../support/peers.ts';

const RECORD_BYTES = 4096;

/** The `sha256 HASH FILE` lines that a guest printed: FILE -> HASH. */
export function printedHashes(console: string): Map<string, string> {
  const lines = [...console.matchAll(/^sha256 ([0-9a-f]{64}) {2}\.\/(.+)$/gm)];
  return new Map(lines.map((line) => [line[2]!, line[1]!]));
}

/** e2fsck must find nothing to say. */
export async function expectSoundExt4(image: string): Promise<void> {
  const result = await runPeer('e2fsck', ['-fn', image]);
  expect(result.code, `e2fsck -fn ${image}:\n${result.stdout}${result.stderr}`).toBe(0);
}

/** The files below `directory` of an ext4 image, without mounting it: path -> sha256. */
export async function hashesInImage(
  image: string,
  directory: string,
  scratch: string,
): Promise<Map<string, string>> {
  const target = join(scratch, 'dump');
  mkdirSync(target, { recursive: true });
  const out = await runPeer('debugfs', ['-R', `rdump ${directory} ${target}`, image]);
  expect(out.code, out.stderr).toBe(0);
  const root = join(target, directory);
  const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [relative(root, path), createHash('sha256').update(readFileSync(path)).digest('hex')];
    }),
  );
}

/** The highest N of the `acked N` lines on a console. */
export function lastAcked(console: string): number {
  return Math.max(-1, ...[...console.matchAll(/^acked (\d+)$/gm)].map((line) => Number(line[1])));
}

/** Records 0..last, 4096 bytes each, as jobs/records.sh writes them. */
export function expectRecords(bytes: Buffer, last: number): void {
  for (let n = 0; n <= last; n += 1) {
    const record = bytes.subarray(n * RECORD_BYTES, (n + 1) * RECORD_BYTES).toString('latin1');
    if (record !== `${String(n).padStart(RECORD_BYTES - 1, '0')}\n`) {
      throw new Error(`record ${n} of ${last} is not there: ${JSON.stringify(record.slice(-40))}`);
    }
  }
}

/** A file of an ext4 image that lost its power: journal replayed on a copy, as the next boot would do. */
export async function recoveredFile(image: string, file: string, scratch: string): Promise<Buffer> {
  const copy = join(scratch, 'recovered.img');
  copyFileSync(image, copy);
  const check = await runPeer('e2fsck', ['-fp', copy]);
  expect(check.code, `e2fsck -fp:\n${check.stdout}${check.stderr}`).toBeLessThanOrEqual(1);
  const target = join(scratch, 'recovered-file');
  await runPeerOk('debugfs', ['-R', `dump ${file} ${target}`, copy]);
  return readFileSync(target);
}
