// qemu-io: patterns written and verified by QEMU's block layer, in each of its cache modes.
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { type PeerResult, runPeer } from '../support/peers.ts';
import { type Rig, startRig } from '../support/rig.ts';

const VOLUMES = [{ name: 'a', sizeBytes: 64 * MiB }];

/** Runs the commands in one qemu-io on the export. A later -t takes the place of writeback, QEMU's own default. */
function qemuIo(rig: Rig, commands: readonly string[], options: readonly string[] = []): Promise<PeerResult> {
  const args = commands.flatMap((command) => ['-c', command]);
  return runPeer('qemu-io', ['-f', 'raw', '-t', 'writeback', ...options, ...args, rig.uri('a')]);
}

async function qemuIoOk(
  rig: Rig,
  commands: readonly string[],
  options: readonly string[] = [],
): Promise<void> {
  const result = await qemuIo(rig, commands, options);
  const output = `${result.stdout}${result.stderr}`;
  expect(result.code, output).toBe(0);
  expect(output).not.toMatch(/failed|error/i);
}

it('writes, zeroes and discards what it reads back', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  await qemuIoOk(
    rig,
    [
      'write -P 0x11 0 64k',
      'write -P 0x22 1M 4M',
      'write -P 0x33 1536k 512',
      'write -P 0x44 3M 32M',
      'write -z 2M 1M',
      'write -z -u 4M 64k',
      'discard 5M 1M',
      'flush',
      'read -P 0x11 0 64k',
      'read -P 0x22 1M 512k',
      'read -P 0x33 1536k 512',
      'read -P 0 2M 1M',
      'read -P 0 4M 64k',
      'read -P 0x44 4160k 960k',
      'read -P 0 5M 1M',
      'read -P 0x44 6M 29M',
      'read -P 0 35M 29M',
    ],
    ['-d', 'unmap'],
  );
  await rig.finish();
});

it('forces single writes to the disk, and every write with cache=writethrough', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  await qemuIoOk(rig, [
    'write -f -P 0x51 0 1M',
    'write -z -f 256k 64k',
    'read -P 0x51 0 256k',
    'read -P 0 256k 64k',
  ]);
  await qemuIoOk(
    rig,
    ['write -P 0x52 8M 1M', 'write -z 8M 4k', 'read -P 0x52 8196k 1020k'],
    ['-t', 'writethrough'],
  );
  await qemuIoOk(rig, ['write -P 0x53 16M 1M', 'flush', 'read -P 0x53 16M 1M'], ['-t', 'none']);
  await rig.finish();
});

it('keeps the order of overlapping writes in flight the same on disk and replica', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const commands: string[] = [];
  for (let turn = 0; turn < 200; turn += 1) {
    const offset = (turn * 37) % 64;
    const length = 1 + ((turn * 11) % 32);
    commands.push(
      turn % 7 === 3
        ? `aio_write -z ${offset}k ${length}k`
        : `aio_write -P ${1 + (turn % 250)} ${offset}k ${length}k`,
    );
    if (turn % 40 === 39) commands.push('aio_flush');
  }
  await qemuIoOk(rig, [...commands, 'aio_flush', 'flush']);
  await rig.settle();
  await qemuIoOk(rig, [...commands, 'aio_flush', 'write -P 0x77 20k 8k', 'read -P 0x77 20k 8k']);
  await rig.finish();
});

it('writes at any byte with vectors', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  await qemuIoOk(rig, [
    'writev -P 0x61 512 512 1024 4096',
    'readv -P 0x61 512 512 1024 4096',
    'read -P 0 0 512',
  ]);
  await rig.finish();
});

it('notices a wrong pattern, and a write past the end fails', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const wrong = await qemuIo(rig, ['write -P 1 0 4k', 'read -P 2 0 4k']);
  expect(wrong.code, 'verification must be able to fail').not.toBe(0);
  const past = await qemuIo(rig, ['write -P 1 64M 4k']);
  expect(past.code).not.toBe(0);
  await rig.finish();
});
