// Who sees and may use what, from the command line and the config file, as real clients find it.
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type CliProcess, runCli, startServe } from '../support/cli.ts';
import { runPeer, runPeerOk } from '../support/peers.ts';
import { waitUntil } from '../support/wait-until.ts';

let dir: string;
const running: CliProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-access-'));
  for (const name of ['a', 'b', 'c']) writeFileSync(join(dir, `${name}.img`), Buffer.alloc(2 ** 20));
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.kill();
  rmSync(dir, { recursive: true, force: true });
});

async function serve(...args: string[]): Promise<CliProcess> {
  const started = await startServe(args, { cwd: dir });
  running.push(started);
  return started;
}

interface Listed {
  readonly exports: ReadonlyArray<Record<string, unknown>>;
}

async function list(uri: string): Promise<string[]> {
  const { exports } = JSON.parse(await runPeerOk('nbdinfo', ['--list', '--json', uri])) as Listed;
  return exports.map((one) => String(one['export-name']));
}

it('each export has its own flags, description, and place in the list', async () => {
  const server = await serve(
    'a.img',
    'b.img',
    'c.img',
    '--export',
    'b,read-only,rotational,description=the second,, of three',
    '--export=c,hidden',
  );
  const [url] = server.urls;
  expect(await list(url!)).toEqual(['a', 'b']);
  const { exports } = JSON.parse(await runPeerOk('nbdinfo', ['--json', `${url}/b`])) as Listed;
  expect(exports).toMatchObject([
    { 'export-name': 'b', description: 'the second, of three', is_read_only: true, is_rotational: true },
  ]);
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', `${url}/a`]);
  expect((await runPeer('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', `${url}/b`])).code).not.toBe(0);
  // Hidden, but there for those who know its name.
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 4k', `${url}/c`]);
  expect(readFileSync(join(dir, 'c.img'))[0]).toBe(7);
});

it('an export that is not for a client looks as if it did not exist', async () => {
  const socket = join(dir, 's');
  const server = await serve(
    'a.img',
    'b.img',
    'c.img',
    '--allow=unix',
    '--export=b,allow=127.0.0.0/8',
    '--export=c,allow=10.0.0.0/8+unix',
    '--listen=127.0.0.1:0',
    `--listen=unix:${socket}`,
  );
  const [tcp, unix] = server.urls;
  expect(await list(tcp!)).toEqual(['b']);
  expect(await list(unix!)).toEqual(['a', 'c']);
  const message = async (name: string): Promise<string> => {
    const { code, stderr } = await runPeer('nbdinfo', ['--size', `${tcp}/${name}`]);
    expect(code).not.toBe(0);
    return stderr.replaceAll(`'${name}'`, 'NAME');
  };
  expect(await message('a')).toBe(await message('nosuch'));
  expect(await runPeerOk('nbdinfo', ['--size', `${tcp}/b`])).toBe('1048576\n');
  expect(await runPeerOk('nbdinfo', ['--size', `nbd+unix:///c?socket=${socket}`])).toBe('1048576\n');
});

it('an export that is no image is an error that lists the images', async () => {
  const { code, stderr } = await runCli(['serve', 'a.img', 'b.img', '--export', 'd,hidden'], { cwd: dir });
  expect(code).toBe(2);
  expect(stderr).toBe('repagent: --export: no image is called "d"; the images are a, b\n');
});

it('a missing image is refused: there is no export of size zero', async () => {
  const { code, stdout, stderr } = await runCli(['serve', 'none.img', '--log-level=error'], { cwd: dir });
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(/none\.img: there is no such image.*--create/);
  expect(statSync(join(dir, 'none.img'), { throwIfNoEntry: false })).toBeUndefined();
});

it('SIGHUP reads the lists anew, and mistakes change nothing', async () => {
  const config = join(dir, 'vm.yaml');
  const write = (lines: string): void =>
    writeFileSync(config, `image: [a.img, b.img]\nlisten: 127.0.0.1:0\n${lines}`);
  write('export: "b,hidden"\n');
  const server = await serve('--config', config, '--listen', '127.0.0.1:0');
  const [url] = server.urls;
  const count = (text: string): number => server.logs().split(text).length - 1;
  const reload = async (text: string): Promise<void> => {
    const before = count(text);
    server.signal('SIGHUP');
    await waitUntil(() => count(text) > before, { what: `the log to say "${text}"` });
  };
  expect(await list(url!)).toEqual(['a']);

  write('export:\n  - a,allow=192.0.2.0/24\n');
  await reload('reloaded');
  expect(await list(url!)).toEqual(['b']);
  expect((await runPeer('nbdinfo', ['--size', `${url}/a`])).code).not.toBe(0);

  write('export:\n  - a,allow=192.0.2.0/99\n');
  await reload('reload failed');
  expect(server.logs()).toContain('the prefix of 192.0.2.0/99 is not 0 to 32');
  expect(await list(url!)).toEqual(['b']);

  write('read-only: true\n');
  await reload('these changes take effect at the next start');
  expect(await list(url!)).toEqual(['a', 'b']);
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', `${url}/a`]);
  expect(await server.stop()).toEqual({ code: 0, signal: null });
});
