// Several exports, several clients, and the addresses a server can be reached at.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { startServe } from '../support/cli.ts';
import { runPeer, runPeerOk } from '../support/peers.ts';
import { makeFolder, makeImage, startRig } from '../support/rig.ts';

const SIZE = 32 * MiB;

it('keeps several exports apart while all of them are written at once', async () => {
  const names = ['a', 'b', 'c'];
  await using rig = await startRig({ volumes: names.map((name) => ({ name, sizeBytes: SIZE })) });
  expect(rig.serve.exports).toEqual(names);
  const source = (name: string): string => join(rig.folder, `${name}.source`);
  for (const [index, name] of names.entries()) makeImage(source(name), SIZE, [[index * 4, 16 + index * 5]]);

  await Promise.all(
    names.map((name) => runPeerOk('nbdcopy', ['--connections=4', source(name), rig.uri(name)])),
  );
  for (const name of names) {
    await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source(name), rig.uri(name)]);
  }
  await rig.finish();
  for (const name of names) await runPeerOk('cmp', [source(name), rig.replica(name)]);
});

it('answers on a unix socket and on TCP at the same time, and removes the socket at the end', async () => {
  using scratch = makeFolder();
  const socket = join(scratch.path, 'nbd.sock');
  await using rig = await startRig({
    volumes: [{ name: 'a', sizeBytes: SIZE }],
    serveArgs: ['--listen', `unix:${socket}`, '--listen', '127.0.0.1:0'],
  });
  const overUnix = `nbd+unix:///a?socket=${socket}`;
  const source = join(rig.folder, 'source');
  makeImage(source, SIZE, [[3, 30]]);

  await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, overUnix]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', overUnix, rig.uri('a')]);
  await runPeerOk('qemu-img', [
    'compare',
    '-f',
    'raw',
    '-F',
    'raw',
    source,
    `nbd:unix:${socket}:exportname=a`,
  ]);
  await rig.finish();
  expect(existsSync(socket), 'socket left behind').toBe(false);
});

it('starts again although a killed server left its socket behind', async () => {
  using scratch = makeFolder();
  const socket = join(scratch.path, 'nbd.sock');
  const image = join(scratch.path, 'a.img');
  makeImage(image, SIZE, [[0, 1]]);
  const args = [`a=${image}`, '--listen', `unix:${socket}`];
  const first = await startServe(args);
  await first.kill();
  expect(existsSync(socket)).toBe(true);

  await using second = await startServe(args);
  expect(second.unixPath).toBe(socket);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, `nbd+unix:///?socket=${socket}`]);
});

it('makes a missing image with --create, and is a plain NBD server without a hub', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'new.img');
  await using serve = await startServe([image, '--create', '48M']);
  expect(serve.exports, 'named after its file').toEqual(['new']);
  const uri = `nbd://127.0.0.1:${serve.port}/new`;
  expect(Number(await runPeerOk('nbdinfo', ['--size', uri]))).toBe(48 * MiB);
  const source = join(scratch.path, 'source');
  makeImage(source, 48 * MiB, [[10, 40]]);
  await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, uri]);
  await serve.stop();
  await runPeerOk('cmp', [source, image]);
});

it('lets a client finish while another one comes and goes', async () => {
  await using rig = await startRig({ volumes: [{ name: 'a', sizeBytes: SIZE }] });
  const source = join(rig.folder, 'source');
  makeImage(source, SIZE, [[0, 32]]);
  const copying = runPeerOk('nbdcopy', ['--connections=2', '--request-size=65536', source, rig.uri('a')]);
  for (let turn = 0; turn < 5; turn += 1) {
    expect((await runPeer('nbdinfo', ['--size', rig.uri('a')])).code).toBe(0);
  }
  await copying;
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, rig.uri('a')]);
  await rig.finish();
});
