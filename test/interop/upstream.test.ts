// Another NBD server as the disk: nbdkit holds the bytes, our server stands in front of it and mirrors.
import { readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { startServe } from '../support/cli.ts';
import { type Peer, runPeerOk, startPeer } from '../support/peers.ts';
import { makeFolder, makeImage, startRig } from '../support/rig.ts';
import { waitUntil } from '../support/wait-until.ts';
import { runCheck } from './nbdsh.ts';

const SIZE = 64 * MiB;

/** A port that was free a moment ago; nbdkit cannot choose one itself and tell. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

async function startNbdkit(port: number, args: readonly string[]): Promise<Peer> {
  const nbdkit = startPeer('nbdkit', [
    '--foreground',
    '--ipaddr',
    '127.0.0.1',
    '--port',
    String(port),
    ...args,
  ]);
  let ended = false;
  const end = (): void => {
    ended = true;
  };
  nbdkit.exited.then(end, end);
  await waitUntil(
    async () => {
      if (ended) throw new Error(`nbdkit ended: ${nbdkit.stderr()}`);
      return runPeerOk('nbdinfo', ['--size', `nbd://127.0.0.1:${port}`]).then(
        () => true,
        () => false,
      );
    },
    { what: 'nbdkit to accept connections', intervalMs: 20 },
  );
  return nbdkit;
}

it('serves and replicates what nbdkit holds', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  const source = join(scratch.path, 'source');
  makeImage(image, SIZE, [[0, 10]]);
  makeImage(source, SIZE, [[5, 40]]);
  const port = await freePort();
  await using _nbdkit = await startNbdkit(port, ['file', image]);
  const volume = { name: 'a', sizeBytes: SIZE, source: `nbd://127.0.0.1:${port}`, image };
  await using rig = await startRig({ volumes: [volume] });

  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, rig.uri('a')]);
  await rig.settle();
  await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, rig.uri('a')]);
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, rig.uri('a')]);
  await rig.finish();
  await runPeerOk('cmp', [source, image]);
});

it('is not disturbed when nbdkit is restarted under a copy', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  const source = join(scratch.path, 'source');
  makeImage(image, SIZE, []);
  makeImage(source, SIZE, [[0, 64]]);
  const port = await freePort();
  const slow = ['--filter=rate', 'file', image, 'rate=400M'];
  await using first = await startNbdkit(port, slow);
  const volume = { name: 'a', sizeBytes: SIZE, source: `nbd://127.0.0.1:${port}`, image };
  await using rig = await startRig({ volumes: [volume] });

  const copying = runPeerOk('nbdcopy', ['--flush', '--request-size=65536', source, rig.uri('a')]);
  await waitUntil(() => statSync(image).blocks * 512 > 4 * MiB, { what: 'the copy to get going' });
  await first.kill();
  await using _second = await startNbdkit(port, slow);
  await expect(copying).resolves.toBeDefined();
  await rig.finish();
  await runPeerOk('cmp', [source, image]);
});

/** An nbdkit that refuses what is no multiple of 512 bytes. */
function startSectorServer(port: number, image: string): Promise<Peer> {
  const policy = ['blocksize-minimum=512', 'blocksize-preferred=4096', 'blocksize-error-policy=error'];
  return startNbdkit(port, ['--filter=blocksize-policy', 'file', image, ...policy]);
}

it('uses as many connections as it is told to, and one unless told', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  const log = join(scratch.path, 'log');
  makeImage(image, SIZE, [[0, 64]]);
  const port = await freePort();
  await using _nbdkit = await startNbdkit(port, ['--filter=log', 'file', image, `logfile=${log}`]);
  const connected = (): number => readFileSync(log, 'utf8').match(/ connection=\d+ Connect /g)?.length ?? 0;
  const before = connected();
  await using one = await startServe([`a=nbd://127.0.0.1:${port}`]);
  await runPeerOk('qemu-img', ['compare', image, `nbd://127.0.0.1:${one.port}/a`]);
  expect(connected() - before).toBe(1);
  await using four = await startServe([`a=nbd://127.0.0.1:${port}`, '--upstream-connections', '4']);
  await runPeerOk('nbdcopy', ['--flush', image, `nbd://127.0.0.1:${four.port}/a`]);
  await waitUntil(() => connected() - before === 5, { what: `four more connections than ${before + 1}` });
});

it('passes on the block size that an upstream server insists on', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  makeImage(image, SIZE, []);
  const port = await freePort();
  await using _nbdkit = await startSectorServer(port, image);
  await using serve = await startServe([`a=nbd://127.0.0.1:${port}`]);
  expect(await runCheck('unaligned', SIZE, `nbd://127.0.0.1:${serve.port}/a`)).toBe('ok unaligned\n');
});

it('makes whole blocks of what clients write, when it replicates such a server', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  makeImage(image, SIZE, [[0, 64]]);
  const port = await freePort();
  await using _nbdkit = await startSectorServer(port, image);
  const volume = { name: 'a', sizeBytes: SIZE, source: `nbd://127.0.0.1:${port}`, image };
  await using rig = await startRig({ volumes: [volume] });
  for (const name of ['read_write', 'neighbours', 'many_in_flight']) await runCheck(name, SIZE, rig.uri('a'));
  await rig.finish();
});

it('hands every kind of request down, with its flags', async () => {
  using scratch = makeFolder();
  const image = join(scratch.path, 'upstream.img');
  const log = join(scratch.path, 'log');
  makeImage(image, SIZE, []);
  const port = await freePort();
  await using _nbdkit = await startNbdkit(port, ['--filter=log', 'file', image, `logfile=${log}`]);
  const volume = { name: 'a', sizeBytes: SIZE, source: `nbd://127.0.0.1:${port}`, image };
  await using rig = await startRig({ volumes: [volume] });
  await rig.settle();

  /** What nbdkit saw while one qemu-io command ran, each request as it logs them. */
  const seen = async (command: string): Promise<string[]> => {
    const before = readFileSync(log, 'utf8').length;
    await runPeerOk('qemu-io', ['-f', 'raw', '-t', 'writeback', '-d', 'unmap', '-c', command, rig.uri('a')]);
    const lines = readFileSync(log, 'utf8').slice(before).split('\n');
    return lines.filter((line) => / (Write|Zero|Trim|Flush) id=/.test(line));
  };
  const fua = await seen('write -f -P 1 1M 64k');
  expect(fua.filter((line) => /Write .*offset=0x100000 count=0x10000 fua=1/.test(line))).toHaveLength(1);
  const plain = await seen('write -P 2 2M 64k');
  expect(plain.filter((line) => /Write .*offset=0x200000 count=0x10000 fua=0/.test(line))).toHaveLength(1);
  expect(plain.filter((line) => line.includes('Flush')).length, 'qemu-io flushes at its end').toBeGreaterThan(
    0,
  );
  expect((await seen('discard 1M 64k')).join()).toMatch(/(Trim|Zero) .*offset=0x100000 count=0x10000/);
  expect((await seen('write -z 2M 64k')).join()).toMatch(/Zero .*offset=0x200000 count=0x10000 trim=0/);
  expect((await seen('write -z -u 3M 64k')).join()).toMatch(/Zero .*offset=0x300000 count=0x10000 trim=1/);
  await rig.finish();
});

it('stacks: our server upstream of our server', async () => {
  await using below = await startRig({ volumes: [{ name: 'a', sizeBytes: SIZE }] });
  const volume = { name: 'a', sizeBytes: SIZE, source: below.uri('a'), image: below.image('a') };
  await using above = await startRig({ volumes: [volume] });
  const source = join(above.folder, 'source');
  makeImage(source, SIZE, [[3, 33]]);
  await runPeerOk('nbdcopy', ['--connections=4', '--flush', source, above.uri('a')]);
  await above.finish();
  await below.finish();
  await runPeerOk('cmp', [below.replica('a'), above.replica('a')]);
});
