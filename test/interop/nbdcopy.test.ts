// nbdcopy (libnbd): whole disks in and out over several connections with many requests in flight.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { runPeerOk } from '../support/peers.ts';
import { makeImage, startRig } from '../support/rig.ts';

const SIZE = 96 * MiB;
const DATA_RUNS = [
  [0, 20],
  [40, 41],
  [60, 90],
] as const;

it('copies a disk in and out over four connections', async () => {
  await using rig = await startRig({ volumes: [{ name: 'a', sizeBytes: SIZE }] });
  const source = join(rig.folder, 'source');
  const back = join(rig.folder, 'back');
  makeImage(source, SIZE, DATA_RUNS);

  await runPeerOk('nbdcopy', ['--connections=4', '--requests=64', '--flush', source, rig.uri('a')]);
  await runPeerOk('nbdcopy', ['--connections=4', '--requests=64', rig.uri('a'), back]);
  await runPeerOk('cmp', [source, back]);
  await rig.settle();
  await runPeerOk('cmp', [source, rig.replica('a')]);

  // Over old data: holes of the source must become zeroes, on the disk and on the replica.
  makeImage(source, SIZE, [[30, 50]]);
  await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, rig.uri('a')]);
  await runPeerOk('nbdcopy', ['--connections=4', rig.uri('a'), back]);
  await runPeerOk('cmp', [source, back]);
  await rig.finish();
  await runPeerOk('cmp', [source, rig.replica('a')]);
});

it('copies while the hub is still reading the disk for the first time', async () => {
  await using rig = await startRig({ volumes: [{ name: 'a', sizeBytes: 256 * MiB }] });
  const source = join(rig.folder, 'source');
  makeImage(source, 256 * MiB, [[0, 256]]);
  await runPeerOk('nbdcopy', ['--connections=2', source, rig.uri('a')]);
  await rig.finish();
  await runPeerOk('cmp', [source, rig.replica('a')]);
});

it('copies from one export to another', async () => {
  const volumes = [
    { name: 'from', sizeBytes: 32 * MiB },
    { name: 'to', sizeBytes: 32 * MiB },
  ];
  await using rig = await startRig({ volumes });
  const source = join(rig.folder, 'source');
  makeImage(source, 32 * MiB, [
    [0, 7],
    [9, 31],
  ]);
  await runPeerOk('nbdcopy', ['--synchronous', source, rig.uri('from')]);
  await runPeerOk('nbdcopy', ['--connections=4', rig.uri('from'), rig.uri('to')]);
  await rig.finish();
  await runPeerOk('cmp', [rig.replica('from'), rig.replica('to')]);
  await expect(runPeerOk('cmp', [source, rig.replica('to')])).resolves.toBe('');
});
