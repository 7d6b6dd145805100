// The Linux kernel's own NBD client, driven by the example script, inside a guest: connect, ext4, fstrim, disconnect.
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { makeFolder, startRig } from '../support/rig.ts';
import { startGuest, USER_NETWORK } from './guest-vm.ts';
import { expectSoundExt4, hashesInImage, printedHashes } from './replica.ts';

const EXAMPLE = fileURLToPath(new URL('../../examples/nbd-client.sh', import.meta.url));

it.each([1, 4])('nbd-client with %i connection(s)', async (connections) => {
  using scratch = makeFolder();
  await using rig = await startRig({ volumes: [{ name: 'data', sizeBytes: 96 * MiB }], filters: [] });
  await using guest = startGuest({
    job: 'nbd-client.sh',
    args: [String(rig.serve.port), 'data', String(connections)],
    files: { 'example.sh': EXAMPLE },
    qemu: USER_NETWORK,
  });
  const console = await guest.finished();
  expect(console).toMatch(/guest: 100663296 bytes, flush write back, fua 1/);
  await rig.finish();

  const written = printedHashes(console);
  expect(written.size).toBe(6);
  await expectSoundExt4(rig.replica('data'));
  expect(await hashesInImage(rig.replica('data'), 'files', scratch.path)).toEqual(written);
});
