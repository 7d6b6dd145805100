// Before the guest suite: fetches the kernel (once) and makes the initramfs.
import { fileURLToPath } from 'node:url';
import { runPeerOk } from '../support/peers.ts';
import { GUEST_FOLDER } from './guest-vm.ts';

export async function setup(): Promise<void> {
  await runPeerOk(fileURLToPath(new URL('build-guest.sh', import.meta.url)), [GUEST_FOLDER], {
    timeoutMs: 300_000,
  });
}
