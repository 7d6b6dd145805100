// The programs on the other side are here: a missing one fails the run instead of quietly testing less.
import { expect, it } from 'vitest';
import { runPeer } from '../support/peers.ts';

const PEERS: ReadonlyArray<readonly [program: string, ...args: string[]]> = [
  ['qemu-img', '--version'],
  ['qemu-io', '--version'],
  ['qemu-nbd', '--version'],
  ['nbdkit', '--version'],
  ['nbdinfo', '--version'],
  ['nbdcopy', '--version'],
  ['nbdsh', '-n', '-c', 'import nbd; print(nbd.NBD().get_version())'],
  ['fio', '--enghelp=nbd'],
  ['nbd-client', '--version'],
  ['tshark', '--version'],
  ['systemd-socket-activate', '--version'],
  ['systemd-analyze', '--version'],
];

it.each(PEERS)('%s runs', async (program, ...args) => {
  const result = await runPeer(program, args);
  expect(result, `${program} ${args.join(' ')}`).toMatchObject({ code: 0 });
  expect(`${result.stdout}${result.stderr}`).toMatch(/\d|uri/);
});
