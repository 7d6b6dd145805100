// A disk behind our NBD server and our NBD client is a block device like any other: the suite, through both, over
// disks that answer at once and disks that answer late and in any order.
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { OrderedDevice } from '../../src/blockdev/ordered-device.ts';
import { startNbdServer } from '../../src/nbd/server.ts';
import { blockDeviceSuite, type MakeDevice } from '../support/block-device-suite.ts';
import { tempDir } from '../support/temp-dir.ts';
import { JumbleDevice } from '../support/test-devices.ts';

/** Serves the disk that `below` makes, on a unix socket or on loopback, and opens it with the client. */
function overNbd(below: (sizeBytes: number) => BlockDevice, kind: 'unix' | 'tcp'): MakeDevice {
  return async ({ sizeBytes }) => {
    const directory = tempDir();
    const disk = below(sizeBytes);
    const path = directory.file('nbd.sock');
    const server = await startNbdServer({
      exports: [{ name: 'disk', device: disk }],
      listen: [kind === 'unix' ? { kind, path } : { kind, host: '127.0.0.1', port: 0 }],
      logger: silentLogger,
    });
    const [address] = server.addresses;
    const uri =
      address?.kind === 'tcp' ? `nbd://127.0.0.1:${address.port}/disk` : `nbd+unix:///disk?socket=${path}`;
    const open = () => openNbdDevice(uri, { logger: silentLogger });
    let device = await open();
    return {
      device,
      async reopen() {
        await device.close();
        device = await open();
        return device;
      },
      async cleanup() {
        await server.close();
        await disk.close();
        directory.remove();
      },
    };
  };
}

for (const minBlockBytes of [1, 512]) {
  const memory = (sizeBytes: number) => new MemoryDevice({ sizeBytes, minBlockBytes });
  blockDeviceSuite(`memory disk of ${minBlockBytes}-byte blocks over NBD`, overNbd(memory, 'unix'), {
    runs: 10,
  });
}

blockDeviceSuite(
  'slow disk that keeps no order, put in order, over NBD',
  overNbd((sizeBytes) => new OrderedDevice(new JumbleDevice(new MemoryDevice({ sizeBytes }), 5)), 'tcp'),
  { runs: 10 },
);
