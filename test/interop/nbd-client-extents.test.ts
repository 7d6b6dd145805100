// What the NBD client device tells of a disk's allocation, and reads of sparse disks, against nbdkit and qemu-nbd.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GiB, KiB, MiB, TiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { Extent } from '../../src/blockdev/block-device.ts';
import { type NbdDevice, openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { openImage } from '../../src/blockdev/open-image.ts';
import { readBack } from '../support/block-device-suite.ts';
import { DiskModel, pattern } from '../support/disk-model.ts';
import { runPeerOk } from '../support/peers.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { startNbdkitAt } from './nbd-servers.ts';

let folder: TempDir;
let ends: Array<() => Promise<unknown>>;
beforeEach(() => {
  folder = tempDir();
  ends = [];
});
afterEach(async () => {
  for (const end of ends.reverse()) await end();
  folder.remove();
});

async function nbdkit(args: readonly string[]): Promise<NbdDevice> {
  const server = await startNbdkitAt({ socket: folder.file('s') }, args);
  ends.push(() => server.stop());
  const device = await openNbdDevice(server.uri, { logger: silentLogger });
  ends.push(() => device.close().catch(() => {}));
  return device;
}

const data = (offset: number, length: number): Extent => ({ offset, length, hole: false, zero: false });
const hole = (offset: number, length: number): Extent => ({ offset, length, hole: true, zero: true });

describe('nbdkit', () => {
  it('tells the holes of a sparse disk', async () => {
    const device = await nbdkit(['data', '@65536 1*65536 @1048576 2*4096', 'size=4M']);
    const expected = [
      hole(0, 64 * KiB),
      data(64 * KiB, 64 * KiB),
      hole(128 * KiB, MiB - 128 * KiB),
      data(MiB, 32 * KiB),
      hole(MiB + 32 * KiB, 3 * MiB - 32 * KiB),
    ];
    expect(await device.extents(0, 4 * MiB)).toEqual(expected);
    expect(await device.extents(100_352, 40_960)).toEqual([data(100_352, 30_720), hole(128 * KiB, 10_240)]);
    expect(await device.extents(512, 512)).toEqual([hole(512, 512)]);
    const model = new DiskModel(4 * MiB);
    model.write(64 * KiB, Buffer.alloc(64 * KiB, 1));
    model.write(MiB, Buffer.alloc(4096, 2));
    expect(model.firstDifference(await readBack(device, 0, 4 * MiB))).toBe(-1);
  });

  it('tells a disk of many terabytes, in as many requests as it takes', async () => {
    const device = await nbdkit(['data', '@6442450944 1*4096', `size=${10 * TiB}`]);
    const extents = await device.extents(0, 16 * GiB);
    expect(extents.map(({ offset, hole: is }) => [offset, is])).toEqual([
      [0, true],
      [6 * GiB, false],
      [6 * GiB + 32 * KiB, true],
    ]);
    const all = await device.extents(0, device.sizeBytes);
    expect(all.reduce((sum, extent) => sum + extent.length, 0)).toBe(device.sizeBytes);
  });

  it('is asked for no more than is of use', async () => {
    const device = await nbdkit(['data', '@65536 1 @131072 1 @262144 1 @524288 1', 'size=1M']);
    const few = await device.extents(0, MiB, 2);
    expect(few.reduce((sum, extent) => sum + extent.length, 0)).toBe(MiB);
    expect(few.slice(0, 2)).toEqual([hole(0, 64 * KiB), data(64 * KiB, 32 * KiB)]);
  });

  it('has everything taken for data when it does not tell', async () => {
    const device = await nbdkit(['--filter=noextents', 'memory', '1M']);
    expect(await device.extents(0, MiB)).toEqual([data(0, MiB)]);
    const old = await openOld();
    expect(await old.extents(0, MiB)).toEqual([data(0, MiB)]);
  });

  async function openOld(): Promise<NbdDevice> {
    const server = await startNbdkitAt({ socket: folder.file('old') }, ['--no-sr', 'memory', '1M']);
    ends.push(() => server.stop());
    const device = await openNbdDevice(server.uri, { logger: silentLogger });
    ends.push(() => device.close());
    return device;
  }

  it('may fail to tell: then it is unknown', async () => {
    const device = await nbdkit([
      '--filter=error',
      'memory',
      '1M',
      'error-extents=EIO',
      'error-extents-rate=100%',
    ]);
    expect(await device.extents(0, MiB)).toEqual([{ ...data(0, MiB), unknown: true }]);
    expect(await readBack(device, 0, 512)).toEqual(Buffer.alloc(512));
  });

  it('has its own words passed on with an error', async () => {
    const device = await nbdkit([
      ...['eval', 'get_size=echo 1M', 'pread=echo "EIO the platter is scratched" >&2; exit 1'],
    ]);
    await expect((async () => device.read(0, Buffer.alloc(512)))()).rejects.toThrow(/EIO/);
  });
});

describe('qemu-nbd', () => {
  it('tells the holes of a qcow2 image that --format opens', async () => {
    const path = folder.file('disk.qcow2');
    await runPeerOk('qemu-img', ['create', '-q', '-f', 'qcow2', path, '64M']);
    const image = await openImage({ source: path, format: 'qcow2', logger: silentLogger });
    ends.push(() => image.close());
    await image.write(MiB, pattern(64 * KiB, 1), false);
    await image.write(8 * MiB, pattern(64 * KiB, 2), false);
    await image.writeZeroes(16 * MiB, MiB, false, true);
    const model = new DiskModel(64 * MiB);
    model.write(MiB, pattern(64 * KiB, 1));
    model.write(8 * MiB, pattern(64 * KiB, 2));
    const extents = await image.extents(0, 64 * MiB);
    expect(extents.filter((one) => !one.zero)).toEqual([data(MiB, 64 * KiB), data(8 * MiB, 64 * KiB)]);
    expect(extents.reduce((sum, one) => sum + one.length, 0)).toBe(64 * MiB);
    expect(model.firstDifference(await readBack(image, 0, 64 * MiB))).toBe(-1);
  });
});
