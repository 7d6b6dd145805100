import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { blockDeviceSuite } from '../support/block-device-suite.ts';

for (const minBlockBytes of [1, 512, 4096]) {
  blockDeviceSuite(
    `memory disk of ${minBlockBytes}-byte blocks`,
    async ({ sizeBytes }) => ({
      device: new MemoryDevice({ sizeBytes, minBlockBytes }),
      cleanup: async () => {},
    }),
    { tellsHoles: true, grows: true },
  );
}
