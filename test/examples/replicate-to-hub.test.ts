import { join } from 'node:path';
import { expect, it } from 'vitest';
import { replicateToHub, startReplicaHub } from '../../examples/replicate-to-hub.ts';
import { MiB } from '../../src/base/limits.ts';
import { runPeerOk } from '../support/peers.ts';
import { makeFolder, makeImage } from '../support/rig.ts';
import { waitUntil } from '../support/wait-until.ts';

it('keeps a replica of a disk that is in use', async () => {
  using folder = makeFolder();
  const path = (name: string): string => join(folder.path, name);
  makeImage(path('disk.img'), 32 * MiB, [[0, 12]]);
  makeImage(path('replica.img'), 32 * MiB, [[0, 32]]);
  makeImage(path('source.img'), 32 * MiB, [[8, 30]]);

  const hub = await startReplicaHub(path('replica.img'), path('hub-state'));
  try {
    const replicating = await replicateToHub(path('disk.img'), hub.address, path('agent-state'));
    try {
      await waitUntil(() => replicating.status().state === 'protected', { what: 'protection' });
      await runPeerOk('cmp', [path('disk.img'), path('replica.img')]);

      const uri = `nbd://127.0.0.1:${replicating.port}/disk`;
      await runPeerOk('nbdcopy', ['--connections=4', '--flush', path('source.img'), uri]);
      await waitUntil(
        () => {
          const { state, sequence, ackedSequence } = replicating.status();
          return state === 'protected' && sequence === ackedSequence;
        },
        { what: 'the hub to have everything' },
      );
      await runPeerOk('cmp', [path('source.img'), path('replica.img')]);
    } finally {
      await replicating.close();
    }
    expect(hub.status()).toMatchObject([{ name: 'disk' }]);
  } finally {
    await hub.close();
  }
  await runPeerOk('cmp', [path('disk.img'), path('replica.img')]);
});
