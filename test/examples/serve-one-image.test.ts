import { join } from 'node:path';
import { expect, it } from 'vitest';
import { serveOneImage } from '../../examples/serve-one-image.ts';
import { MiB } from '../../src/base/limits.ts';
import { runPeerOk } from '../support/peers.ts';
import { makeFolder, makeImage } from '../support/rig.ts';

it('serves one image to other people’s programs', async () => {
  using folder = makeFolder();
  const image = join(folder.path, 'disk.img');
  const source = join(folder.path, 'source.img');
  makeImage(image, 32 * MiB, [[0, 3]]);
  makeImage(source, 32 * MiB, [[1, 20]]);

  const serving = await serveOneImage(image, 0);
  try {
    const uri = `nbd://127.0.0.1:${serving.port}/disk`;
    await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, uri]);
    await runPeerOk('qemu-img', [
      'compare',
      '-f',
      'raw',
      '-F',
      'raw',
      source,
      `nbd:localhost:${serving.port}`,
    ]);
  } finally {
    await serving.close();
  }
  await runPeerOk('cmp', [source, image]);
});

it('leaves nothing open when it can not start', async () => {
  await expect(serveOneImage('/nonexistent/disk.img', 0)).rejects.toThrow('/nonexistent/disk.img');
});
