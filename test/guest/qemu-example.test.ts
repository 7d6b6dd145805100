// examples/qemu-guest.sh, as a user would run it, with the small guest as the virtual machine.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { CLI_PATH, scratchDir } from '../support/cli.ts';
import { runPeerOk, startPeer } from '../support/peers.ts';
import { makeFolder } from '../support/rig.ts';
import { qemuOptions, watchGuest } from './guest-vm.ts';
import { expectSoundExt4, hashesInImage, printedHashes } from './replica.ts';

const EXAMPLE = fileURLToPath(new URL('../../examples/qemu-guest.sh', import.meta.url));

it('examples/qemu-guest.sh replicates a machine while it runs', async () => {
  using folder = makeFolder();
  const image = join(folder.path, 'disk.img');
  const replica = join(folder.path, 'replica.img');
  const consoleFile = join(folder.path, 'console');
  const machine = qemuOptions({ job: 'ext4-files.sh', args: ['/dev/vda', 'trim'] }, consoleFile);
  const disk = ['--image', image, '--create', '80M', '--replica', replica, '--drive', 'discard=unmap'];
  const example = startPeer(EXAMPLE, [...disk, '--', ...machine], {
    env: { REPAGENT: `${process.execPath} ${CLI_PATH}`, XDG_RUNTIME_DIR: join(scratchDir, 'run') },
  });
  await using guest = watchGuest(example, consoleFile, 180_000);
  const console = await guest.finished();

  expect(example.stderr()).toContain(`${replica} equals ${image}`);
  await runPeerOk('cmp', [image, replica]);
  await expectSoundExt4(replica);
  const written = printedHashes(console);
  expect(written.size).toBe(9);
  expect(await hashesInImage(replica, 'files', folder.path)).toEqual(written);
});
