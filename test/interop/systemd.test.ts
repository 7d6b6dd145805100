// The units in packaging/ as systemd reads them: systemd-analyze checks them, and systemd-socket-activate starts what they
// say, with the sockets that they name. systemd itself need not run here.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CLI_PATH } from '../support/cli.ts';
import { runPeer, runPeerOk, startPeer } from '../support/peers.ts';
import { readUnit, UNIT_DIR, UNIT_NAMES } from '../support/unit-files.ts';
import { waitUntil } from '../support/wait-until.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-systemd-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** What systemd-analyze says of our units, whose program is the one that was built. Other units' faults aren't ours. */
async function verify(change: (text: string) => string): Promise<{ code: number | null; said: string[] }> {
  for (const name of UNIT_NAMES) {
    copyFileSync(join(UNIT_DIR, name), join(dir, name));
    const text = readFileSync(join(dir, name), 'utf8').replace(
      'ExecStart=repagent ',
      `ExecStart=${CLI_PATH} `,
    );
    writeFileSync(join(dir, name), change(text));
  }
  const paths = UNIT_NAMES.map((name) => join(dir, name));
  const { code, stdout, stderr } = await runPeer('systemd-analyze', ['verify', '--man=no', ...paths]);
  const said = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('repagent'));
  return { code, said };
}

it('systemd-analyze finds nothing wrong with the units', async () => {
  expect(await verify((text) => text)).toEqual({ code: 0, said: [] });
});

it.each([
  ['a misspelt key', 'ProtectSystem=', 'ProtectSytem='],
  ['a value that is none', 'KillMode=mixed', 'KillMode=some'],
  ['a program that is not there', '--config', '--config', CLI_PATH, '/nowhere/repagent'],
])('and would find %s', async (_what, ...pairs) => {
  const changed = await verify((text) => {
    let result = text;
    for (let i = 0; i < pairs.length; i += 2) result = result.replaceAll(pairs[i]!, pairs[i + 1]!);
    return result;
  });
  expect(changed.said).not.toEqual([]);
});

it('the socket unit passes the sockets that the service serves with its own command line', async () => {
  const image = join(dir, 'disk.img');
  writeFileSync(image, Buffer.alloc(2 ** 20));
  writeFileSync(join(dir, 'vm.yaml'), `image: disk=${image}\n`);
  mkdirSync(join(dir, 'repagent'), { mode: 0o700 });
  const place = (text: string): string => text.replaceAll('%t', dir).replaceAll('/etc/repagent', dir);
  const streams = readUnit('repagent.socket').all('Socket', 'ListenStream').map(place);
  expect(streams).toEqual(['127.0.0.1:10809', join(dir, 'repagent-nbd.sock')]);
  // The port may be taken here.
  streams[0] = join(dir, 'instead-of-tcp.sock');
  const words = place(readUnit('repagent.service').one('Service', 'ExecStart')).split(' ');
  const args = [...streams.flatMap((path) => ['-l', path]), '-E', `XDG_STATE_HOME=${dir}`];
  await using service = startPeer('systemd-socket-activate', [
    ...args,
    process.execPath,
    CLI_PATH,
    ...words.slice(1),
  ]);
  await waitUntil(() => service.stderr().includes('Listening on'), { what: 'systemd-socket-activate' });
  for (const path of streams) {
    expect(await runPeerOk('nbdinfo', ['--size', `nbd+unix:///disk?socket=${path}`])).toBe('1048576\n');
  }
  const control = `unix:${join(dir, 'repagent', 'serve.sock')}`;
  const status = await runPeerOk(process.execPath, [CLI_PATH, 'status', '--control', control, '--json']);
  expect(JSON.parse(status)).toMatchObject({ role: 'agent' });
  // As ExecReload and the stop do it.
  process.kill(service.pid, 'SIGHUP');
  await waitUntil(() => service.stderr().includes('"msg":"reloaded"'), { what: 'the reload' });
  expect(await service.stop()).toMatchObject({ code: 0 });
});
