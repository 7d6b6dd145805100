// TLS between agent and hub as a user sets it up: files made by openssl, options, reload, and what is said when a file
// is missing or wrong.
import { copyFileSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli, startHub, startServe } from '../support/cli.ts';
import { waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { TestCa } from '../support/tls-files.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 4 << 20;

let dir: TempDir;
let ca: TestCa;

beforeAll(async () => {
  dir = tempDir();
  ca = await TestCa.create(dir.file('ca'));
  await ca.issue(dir.file('hub'), 'server', { name: 'hub', altNames: 'IP:127.0.0.1' });
  await ca.issue(dir.file('vm1'), 'client', { name: 'vm1' });
  writeFileSync(dir.file('disk.img'), Buffer.alloc(SIZE, 0x31));
});
afterAll(() => dir.remove());

function hubArgs(name: string): string[] {
  writeFileSync(dir.file(`${name}.img`), '');
  truncateSync(dir.file(`${name}.img`), SIZE);
  return [`disk=${dir.file(`${name}.img`)}`, '--state-dir', dir.file(`${name}-state`)];
}

test('a volume is replicated over TLS, and SIGHUP takes new files without a broken connection', async () => {
  await using hub = await startHub([...hubArgs('replica'), '--tls-dir', dir.file('hub')]);
  const agentArgs = ['--hub', `127.0.0.1:${hub.port}`, '--hub-tls-dir', dir.file('vm1'), '--vm-name', 'vm1'];
  const agent = await startServe([`disk=${dir.file('disk.img')}`, ...agentArgs]);
  await waitProtected(agent, 30);
  expect(hub.logs()).toContain('"certificate":"vm1"');

  // A file that is damaged leaves the old ones in force.
  copyFileSync(dir.file('hub/server-cert.pem'), dir.file('good.pem'));
  writeFileSync(dir.file('hub/server-cert.pem'), 'no certificate\n');
  hub.signal('SIGHUP');
  await waitUntil(() => hub.logs().includes('what was in force stays so'), { what: 'a refused reload' });
  renameSync(dir.file('good.pem'), dir.file('hub/server-cert.pem'));
  for (const one of [hub, agent]) {
    one.signal('SIGHUP');
    await waitUntil(() => one.logs().includes('"what":"TLS files of the hub link","msg":"reloaded"'), {
      what: 'a reload',
    });
  }
  expect((await runCli(['verify', '--control', agent.control])).code).toBe(0);
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
  expect(hub.logs().match(/an agent began/g)).toHaveLength(1);
  await hub.stop();
  expect(readFileSync(dir.file('replica.img')).equals(readFileSync(dir.file('disk.img')))).toBe(true);
});

test('other machines may dial a hub that demands TLS', async () => {
  const listen = ['--listen', '0.0.0.0:0'];
  const plain = await runCli(['hub', ...hubArgs('open'), ...listen]);
  expect(plain.code).toBe(2);
  expect(plain.stderr).toMatch(/can be reached from other machines.*demand TLS with --tls-dir/);
  await using hub = await startHub([...hubArgs('open'), ...listen, '--tls-dir', dir.file('hub')]);
  expect(hub.urls[0]).toMatch(/^repagent:\/\/0\.0\.0\.0:/);
});

test.each<[string, string[], number, RegExp]>([
  ['hub', ['a=x.img', '--tls-any-name'], 2, /--tls-any-name .* add --tls-dir DIR/],
  ['serve', ['disk.img', '--hub-tls-dir', 'x'], 2, /--hub-tls-dir .* add --hub HOST/],
  ['serve', ['disk.img', '--hub', 'h', '--hub-tls-name', 'n'], 2, /--hub-tls-name .* add --hub-tls-dir/],
  [
    'serve',
    ['disk.img', '--hub', '127.0.0.1:9', '--hub-tls-dir', 'none'],
    1,
    /none does not exist; create it with the files that docs\/TLS\.md lists/,
  ],
  ['serve', ['disk.img', '--hub', '127.0.0.1:9', '--hub-tls-dir', 'hub/none'], 1, /none does not exist/],
])('%s %j says what is wrong', async (command, args, code, message) => {
  const listen = command === 'serve' ? ['--listen', '127.0.0.1:0', '--log-level', 'silent'] : [];
  const result = await runCli([command, ...args, ...listen], { cwd: dir.path });
  expect(result.stderr).toMatch(message);
  expect([result.code, result.stdout]).toEqual([code, '']);
});
