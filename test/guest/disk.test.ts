// A virtual machine whose disk is ours: -drive file=nbd:localhost:PORT. It makes a file system, writes files, powers
// off; then the hub's copy is a disk to recover from.
import { statSync } from 'node:fs';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { makeFolder, startRig } from '../support/rig.ts';
import { startGuest } from './guest-vm.ts';
import { expectSoundExt4, hashesInImage, printedHashes } from './replica.ts';

const VOLUMES = [{ name: 'disk', sizeBytes: 96 * MiB }];

const CASES = [
  { title: 'as documented', drive: '', args: [], filters: [] },
  { title: 'behind filters', drive: '', args: [], filters: undefined },
  { title: 'with discard=unmap and fstrim', drive: ',discard=unmap', args: ['trim'], filters: [] },
  { title: 'with cache=writethrough', drive: ',cache=writethrough', args: [], filters: [] },
];

it.each(CASES)('ext4 on a replicated disk, $title', async ({ drive, args, filters }) => {
  using scratch = makeFolder();
  await using rig = await startRig({ volumes: VOLUMES, ...(filters ? { filters } : {}) });
  await using guest = startGuest({
    job: 'ext4-files.sh',
    args: ['/dev/vda', ...args],
    qemu: ['-drive', `file=nbd:localhost:${rig.serve.port},format=raw,if=virtio${drive}`],
  });
  const console = await guest.finished();
  await rig.finish();

  const written = printedHashes(console);
  expect(written.size).toBe(9);
  await expectSoundExt4(rig.replica('disk'));
  expect(await hashesInImage(rig.replica('disk'), 'files', scratch.path)).toEqual(written);
  if (args[0] === 'trim') {
    // 24 MiB were written and given back; the replica, which began full, has holes there too.
    expect(statSync(rig.image('disk')).blocks * 512).toBeLessThan(16 * MiB);
    expect(statSync(rig.replica('disk')).blocks * 512).toBeLessThan(16 * MiB);
  }
});
