// `serve --workers`: other people's clients use several exports of two worker processes at once, in the clear and inside
// TLS, and notice nothing of it; a hub follows all of them.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { runPeerOk } from '../support/peers.ts';
import { infoData, optionBytes, RawNbdClient, requestBytes } from '../support/raw-nbd-client.ts';
import { isSettled, makeFolder, makeImage, readStats, readStatus, waitProtected } from '../support/rig.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 32 * MiB;
const NAMES = ['a', 'b', 'c'];
const KEY = 'ab'.repeat(32);

const folder = makeFolder();
const at = (name: string): string => join(folder.path, name);
makeImage(at('source'), SIZE, [
  [0, 5],
  [20, 32],
]);
writeFileSync(at('keys.psk'), `alice:${KEY}\n`, { mode: 0o600 });
afterAll(() => folder[Symbol.dispose]());

const running: CliProcess[] = [];
afterEach(async () => {
  for (const one of running.splice(0)) await one.kill();
});

async function serve(prefix: string, ...args: string[]): Promise<CliProcess> {
  const images = NAMES.map((name) => `${name}=${at(`${prefix}-${name}.img`)}`);
  const started = await startServe([...images, '--create', String(SIZE), '--workers', '2', ...args]);
  running.push(started);
  return started;
}

it('serves, replicates and answers for volumes of two processes', async () => {
  const hub = await startHub(['--store', at('store')]);
  running.push(hub);
  const agent = await serve('plain', ...['--hub', `127.0.0.1:${hub.port}`, '--vm-name', 'vm']);
  const uri = (name: string): string => `nbd://127.0.0.1:${agent.port}/${name}`;
  const list = JSON.parse(await runPeerOk('nbdinfo', ['--list', '--json', uri('')])) as {
    exports: Array<{ 'export-name': string; 'export-size': number; contexts: string[] }>;
  };
  expect(list.exports.map((one) => [one['export-name'], one['export-size']])).toEqual(
    NAMES.map((name) => [name, SIZE]),
  );
  expect(list.exports[1]!.contexts).toEqual(['base:allocation', 'repagent:dirty']);

  await Promise.all(NAMES.map((name) => runPeerOk('nbdcopy', ['--flush', at('source'), uri(name)])));
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 7 1M 64k', '-c', 'read -P 7 1M 64k', uri('b')]);
  await waitProtected(agent);
  await waitUntil(async () => isSettled(await readStatus(agent), NAMES.length), {
    what: 'all to be acknowledged',
    timeoutMs: 30_000,
    intervalMs: 100,
  });
  const status = await readStatus(agent);
  expect(status.volumes.map(({ name }) => name)).toEqual(NAMES);
  expect(status.workers?.map(({ volumes, state, restarts }) => [volumes, state, restarts])).toEqual([
    [['a', 'c'], 'running', 0],
    [['b'], 'running', 0],
  ]);
  expect(status.links).toHaveLength(1);
  expect(status.link?.state).toBe('live');
  const pids = new Set([agent.pid, ...status.workers!.map(({ pid }) => pid)]);
  expect(pids.size).toBe(3);
  expect(Object.keys((await readStats(agent)) as object).sort()).toEqual(['agent', 'filters']);

  await orders(agent, uri);
  expect((await agent.stop()).code).toBe(0);
  await hub.stop();
  for (const name of NAMES) await runPeerOk('cmp', [at(`plain-${name}.img`), at(`store/vm/${name}`)]);
  for (const name of ['a', 'c']) {
    await runPeerOk('cmp', ['-n', String(SIZE), at('source'), at(`plain-${name}.img`)]);
  }
});

/** What users ask of single volumes reaches the process that has them. */
async function orders(agent: CliProcess, uri: (name: string) => string): Promise<void> {
  const ask = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await runCli([...args, '--control', agent.control]);
    expect([code, stderr]).toEqual([0, '']);
    return stdout;
  };
  await ask('verify', '--volume', 'c');
  await ask('resize', 'b', '+1M');
  expect((await runPeerOk('nbdinfo', ['--size', uri('b')])).trim()).toBe(String(SIZE + MiB));
  await waitProtected(agent);
  await ask('pause', 'a', '--timeout', '60');
  expect((await readStatus(agent)).volumes[0]!.paused).not.toBeNull();
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 4k', uri('b')]);
  await ask('resume', 'a');
  const unknown = await runCli(['pause', 'x', '--control', agent.control]);
  expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringContaining('there is no volume')]);
}

it('keeps a reload, access rules and the limits of connections in one place', async () => {
  const agent = await serve('rules', ...['--export', 'b,allow=192.0.2.1', '--export', 'c,worker=2']);
  const uri = (name: string): string => `nbd://127.0.0.1:${agent.port}/${name}`;
  expect((await readStatus(agent)).workers?.map(({ volumes }) => volumes)).toEqual([['a', 'b'], ['c']]);
  await expect(runPeerOk('nbdinfo', ['--size', uri('b')])).rejects.toThrow('no export named');
  agent.signal('SIGHUP');
  await waitUntil(() => agent.logs().includes('"what":"workers","msg":"reloaded"'), { what: 'the reload' });
  await runPeerOk('nbdinfo', ['--size', uri('c')]);
  // Requests that don't wait for the answer to the choice go over with the socket.
  const eager = await RawNbdClient.connect({ host: '127.0.0.1', port: agent.port });
  await eager.greet();
  const data = Buffer.alloc(12_288, 7);
  eager.send(Buffer.concat([optionBytes(7, infoData('c')), requestBytes({ type: 1, offset: 512, data })]));
  for (let reply = 0; reply !== 1; ) reply = (await eager.readOptionReply()).type;
  expect((await eager.readReply()).error).toBe(0);
  expect((await eager.request({ type: 0, offset: 512, length: data.length })).data.equals(data)).toBe(true);
  await eager.destroy();
  // A terminal's Ctrl-C reaches the workers too, and is not theirs to follow.
  for (const { pid } of (await readStatus(agent)).workers!) process.kill(pid!, 'SIGINT');
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 4k', uri('c')]);
  expect((await agent.stop()).code).toBe(0);
  expect(agent.logs()).not.toContain('"level":50');
});

it('serves clients inside TLS', async () => {
  const agent = await serve('tls', ...['--tls', 'require', '--tls-psk', at('keys.psk')]);
  const uri = (name: string): string =>
    `nbds://alice@127.0.0.1:${agent.port}/${name}?tls-psk-file=${at('keys.psk')}`;
  await Promise.all(NAMES.map((name) => runPeerOk('nbdcopy', ['--flush', at('source'), uri(name)])));
  await runPeerOk('nbdcopy', [uri('b'), at('back')]);
  await runPeerOk('cmp', [at('source'), at('back')]);
  expect((await agent.stop()).code).toBe(0);
  for (const name of NAMES) await runPeerOk('cmp', [at('source'), at(`tls-${name}.img`)]);
});

it('says which image can not be opened, and leaves nothing running', async () => {
  const args = [
    `a=${at('rules-a.img')}`,
    `b=${at('missing.img')}`,
    '--workers',
    '2',
    '--listen',
    '127.0.0.1:0',
  ];
  const { code, stderr } = await runCli(['serve', ...args]);
  expect(code).toBe(1);
  expect(stderr).toMatch(/^repagent: .*missing\.img/m);
});
