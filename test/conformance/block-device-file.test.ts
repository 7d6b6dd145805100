// The suite over a real block device: a loop device, which takes root and losetup.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { openFileDevice } from '../../src/blockdev/file-device.ts';
import { blockDeviceSuite, readBack, settled } from '../support/block-device-suite.ts';
import { pattern } from '../support/disk-model.ts';
import { tempDir } from '../support/temp-dir.ts';

interface LoopDevice {
  readonly path: string;
  readonly remove: () => void;
}

function attach(sizeBytes: number): LoopDevice {
  const dir = tempDir();
  const backing = dir.file('backing.img');
  fs.writeFileSync(backing, '');
  fs.truncateSync(backing, sizeBytes);
  const path = execFileSync('losetup', ['--find', '--show', backing], { encoding: 'utf8' }).trim();
  return {
    path,
    remove() {
      execFileSync('losetup', ['--detach', path]);
      dir.remove();
    },
  };
}

/** Whether loop devices can be attached here: containers and users other than root can't. */
function canAttach(): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    attach(1 * MiB).remove();
    return true;
  } catch {
    return false;
  }
}

describe.runIf(canAttach())('on a loop device', () => {
  for (const native of [undefined, null]) {
    blockDeviceSuite(
      `block device ${native === null ? 'without native calls' : 'with native calls'}`,
      async ({ sizeBytes }) => {
        const loop = attach(sizeBytes);
        const options = { path: loop.path, logger: silentLogger, ...(native === null ? { native } : {}) };
        const device = await openFileDevice(options);
        return {
          device,
          async reopen() {
            await device.close();
            return openFileDevice(options);
          },
          cleanup: async () => loop.remove(),
        };
      },
      { runs: 5, large: native !== null },
    );
  }

  it('gives the space of a trimmed range back to what is below', async () => {
    const loop = attach(8 * MiB);
    try {
      const device = await openFileDevice({ path: loop.path, logger: silentLogger });
      await device.write(0, pattern(8 * MiB, 1), true);
      const backing = execFileSync('losetup', ['-n', '-O', 'BACK-FILE', loop.path], {
        encoding: 'utf8',
      }).trim();
      const used = fs.statSync(backing).blocks;
      await device.trim(1 * MiB, 4 * MiB, true);
      expect(fs.statSync(backing).blocks).toBeLessThan(used);
      expect((await readBack(device, 1 * MiB, 4 * MiB)).equals(Buffer.alloc(4 * MiB))).toBe(true);
      await device.close();
    } finally {
      loop.remove();
    }
  });

  it('refuses one that is mounted', async () => {
    const loop = attach(16 * MiB);
    const dir = tempDir();
    let mounted = false;
    try {
      execFileSync('mkfs.ext4', ['-q', loop.path]);
      execFileSync('mount', [loop.path, dir.path]);
      mounted = true;
      expect(await settled(() => openFileDevice({ path: loop.path, logger: silentLogger }))).toMatchObject({
        message: expect.stringContaining('in use by the system'),
        hint: expect.stringContaining('mounted'),
      });
    } finally {
      if (mounted) execFileSync('umount', [dir.path]);
      loop.remove();
      dir.remove();
    }
  });
});
