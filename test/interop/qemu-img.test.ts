// qemu-img: conversions in both directions, comparison, and qcow2 images as the disk that is served.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { runPeer, runPeerOk } from '../support/peers.ts';
import { makeImage, startRig } from '../support/rig.ts';

const SIZE = 64 * MiB;
const DATA_RUNS = [
  [1, 12],
  [30, 50],
] as const;
const VOLUMES = [{ name: 'a', sizeBytes: SIZE }];

it('converts raw to the export and back to qcow2', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const source = join(rig.folder, 'source.raw');
  const back = join(rig.folder, 'back.qcow2');
  makeImage(source, SIZE, DATA_RUNS);
  const uri = rig.uri('a');

  await runPeerOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, uri]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, uri]);
  await runPeerOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, back]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', source, back]);
  await rig.finish();
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, rig.replica('a')]);
});

it('converts out of order with many coroutines, over old data', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const source = join(rig.folder, 'source.raw');
  makeImage(source, SIZE, [[0, 64]]);
  const convert = ['convert', '-n', '-W', '-m', '16', '-f', 'raw', '-O', 'raw'];
  await runPeerOk('qemu-img', [...convert, source, rig.uri('a')]);
  makeImage(source, SIZE, DATA_RUNS);
  await runPeerOk('qemu-img', [...convert, source, rig.uri('a')]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, rig.uri('a')]);
  await rig.finish();
});

it('opens the short form nbd:localhost:PORT', async () => {
  const volumes = [...VOLUMES, { name: 'second', sizeBytes: 16 * MiB }];
  await using rig = await startRig({ volumes });
  const short = `nbd:localhost:${rig.serve.port}`;
  const size = async (uri: string): Promise<number> => {
    const info = JSON.parse(await runPeerOk('qemu-img', ['info', '--output=json', uri])) as {
      'virtual-size': number;
    };
    return info['virtual-size'];
  };
  expect(await size(short)).toBe(SIZE);
  expect(await size(`${short}:exportname=second`)).toBe(16 * MiB);

  const source = join(rig.folder, 'source.raw');
  makeImage(source, SIZE, DATA_RUNS);
  await runPeerOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, short]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, short]);
  await rig.finish();
});

it('notices a difference', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const source = join(rig.folder, 'source.raw');
  makeImage(source, SIZE, DATA_RUNS);
  const result = await runPeer('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, rig.uri('a')]);
  expect(result).toMatchObject({ code: 1, stdout: expect.stringContaining('Content mismatch') });
});

it('finds a qcow2 image behind --format qcow2 as it was, and checks it after writing', async () => {
  using scratch = (await import('../support/rig.ts')).makeFolder();
  const raw = join(scratch.path, 'source.raw');
  const image = join(scratch.path, 'disk.qcow2');
  const expected = join(scratch.path, 'expected.raw');
  makeImage(raw, SIZE, DATA_RUNS);
  makeImage(expected, SIZE, [[0, 30]]);
  await runPeerOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);

  const volume = { name: 'a', sizeBytes: SIZE, source: image, image, imageFormat: 'qcow2' } as const;
  await using rig = await startRig({ volumes: [volume], serveArgs: ['--format', 'qcow2'] });
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, rig.uri('a')]);
  await rig.settle();
  await runPeerOk('cmp', [raw, rig.replica('a')]);

  await runPeerOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', expected, rig.uri('a')]);
  await rig.finish();
  await runPeerOk('qemu-img', ['check', '-f', 'qcow2', image]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', expected, image]);
  await runPeerOk('cmp', [expected, rig.replica('a')]);
});
