// Takes a disk as power cuts at many moments would leave it, with what was promised by then, and looks at the files in it
// as the next boot would find them.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { runPeer } from '../support/peers.ts';
import type { VolatileDisk } from '../support/volatile-disk.ts';

export interface CrashImage<T> {
  readonly medium: Buffer;
  readonly promised: T;
}

/**
 * From now on, until the power is cut, takes the disk at moments by chance, before any change or flush of it.
 * @param most images, and one in about `every` requests
 * @param promised what had been promised to whoever relies on the disk, at that moment
 * @returns the images, more of them as time goes by
 */
export function takeCrashImages<T>(
  disk: VolatileDisk,
  { most, every, random }: { most: number; every: number; random: () => number },
  promised: () => T,
): readonly CrashImage<T>[] {
  const images: CrashImage<T>[] = [];
  let left = Math.ceil(random() * every);
  disk.onRequest = () => {
    left -= 1;
    if (left > 0 || images.length >= most) return;
    left = Math.ceil(random() * 2 * every);
    images.push({ medium: disk.afterPowerCut(random), promised: promised() });
  };
  return images;
}

/** A file system that lost its power, repaired as the next boot would do it. */
export class RecoveredFiles {
  readonly #image: string;
  readonly #scratch: string;

  private constructor(image: string, scratch: string) {
    this.#image = image;
    this.#scratch = scratch;
  }

  static async open(medium: Buffer, scratch: string): Promise<RecoveredFiles> {
    const image = join(scratch, 'medium.img');
    writeFileSync(image, medium);
    const check = await runPeer('e2fsck', ['-fp', image]);
    if (check.code === null || check.code > 1) {
      throw new Error(`e2fsck -fp of a crash image: ${check.code}\n${check.stdout}${check.stderr}`);
    }
    return new RecoveredFiles(image, scratch);
  }

  /** @returns undefined when there is no such file */
  async read(path: string): Promise<Buffer | undefined> {
    const target = join(this.#scratch, 'recovered');
    rmSync(target, { force: true });
    const dump = await runPeer('debugfs', ['-R', `dump ${path} ${target}`, this.#image]);
    expect(dump.code, dump.stderr).toBe(0);
    return existsSync(target) ? readFileSync(target) : undefined;
  }
}
