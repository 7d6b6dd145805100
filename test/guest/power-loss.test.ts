// QEMU is killed in the middle of a load. Whatever the guest had fsynced by then is on the replica once it converged.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { makeFolder, reachProtected, startRig } from '../support/rig.ts';
import { type Guest, startGuest } from './guest-vm.ts';
import { expectRecords, lastAcked, recoveredFile } from './replica.ts';

const VOLUMES = [{ name: 'disk', sizeBytes: 96 * MiB }];
const ACKED_AT_LEAST = 150;

function bootRecords(port: number, mode: 'raw' | 'ext4'): Guest {
  const disk = `file=nbd:localhost:${port},format=raw,if=virtio`;
  return startGuest({ job: 'records.sh', args: ['/dev/vda', mode], qemu: ['-drive', disk] });
}

it('keeps every record that was fsynced on the raw disk', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  await using guest = bootRecords(rig.serve.port, 'raw');
  await guest.waitFor(new RegExp(`^acked ${ACKED_AT_LEAST}$`, 'm'));
  await guest.kill();
  await rig.finish();
  const last = lastAcked(guest.console());
  expect(last).toBeGreaterThanOrEqual(ACKED_AT_LEAST);
  expectRecords(readFileSync(rig.replica('disk')), last);
});

it('keeps every record that was fsynced in a file, beside a load that was not', async () => {
  using scratch = makeFolder();
  await using rig = await startRig({ volumes: VOLUMES });
  await reachProtected(rig.serve, 'disk');
  await using guest = bootRecords(rig.serve.port, 'ext4');
  await guest.waitFor(new RegExp(`^acked ${ACKED_AT_LEAST}$`, 'm'));
  await guest.kill();
  await rig.finish();
  const last = lastAcked(guest.console());
  expect(last).toBeGreaterThanOrEqual(ACKED_AT_LEAST);
  expectRecords(await recoveredFile(rig.replica('disk'), '/log', scratch.path), last);
});
