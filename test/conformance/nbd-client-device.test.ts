// The suite of block devices over the NBD client, with nbdkit on the other side: its memory and its file plugin, a
// server of large blocks and small requests, and one that can't zero.
import fs from 'node:fs';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { OrderedDevice } from '../../src/blockdev/ordered-device.ts';
import { startNbdkitAt } from '../interop/nbd-servers.ts';
import { blockDeviceSuite, type DeviceUnderTest } from '../support/block-device-suite.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Kind {
  /** Plugin and filters of nbdkit; `image` is a sparse file of the disk's size. */
  readonly args: (image: string, sizeBytes: number) => string[];
  readonly unflushedBytes?: number;
}

async function make(kind: Kind, sizeBytes: number): Promise<DeviceUnderTest> {
  const folder = tempDir();
  const image = folder.file('disk.img');
  fs.writeFileSync(image, '');
  fs.truncateSync(image, sizeBytes);
  const server = await startNbdkitAt({ socket: folder.file('s') }, kind.args(image, sizeBytes));
  const { unflushedBytes } = kind;
  // Overlapping changes in flight are in order above this device, as everywhere.
  const open = async (): Promise<BlockDevice> =>
    new OrderedDevice(
      await openNbdDevice(server.uri, {
        logger: silentLogger,
        ...(unflushedBytes === undefined ? {} : { unflushedBytes }),
      }),
    );
  const device = await open();
  return {
    device,
    async reopen() {
      await device.close();
      return open();
    },
    async cleanup() {
      await server.kill();
      folder.remove();
    },
  };
}

const KINDS: Readonly<Record<string, Kind>> = {
  memory: { args: (_image, sizeBytes) => ['memory', String(sizeBytes)] },
  file: { args: (image) => ['file', image] },
  'memory, with a log that is always full': {
    args: (_image, sizeBytes) => ['memory', String(sizeBytes)],
    unflushedBytes: 8192,
  },
  'small requests': {
    args: (image) => [
      '--filter=blocksize-policy',
      'file',
      image,
      'blocksize-minimum=512',
      'blocksize-preferred=65536',
      'blocksize-maximum=131072',
      'blocksize-error-policy=error',
    ],
  },
};

for (const [name, kind] of Object.entries(KINDS)) {
  blockDeviceSuite(`NBD client device (nbdkit ${name})`, ({ sizeBytes }) => make(kind, sizeBytes), {
    runs: 6,
  });
}

// Every zero is written: too slow for 4 GiB of them.
blockDeviceSuite(
  'NBD client device (nbdkit without WRITE_ZEROES)',
  ({ sizeBytes }) =>
    make(
      {
        args: (image) => ['--filter=nozero', 'file', image, 'zeromode=none'],
      },
      sizeBytes,
    ),
  { runs: 6, large: false },
);
