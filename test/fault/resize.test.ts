// Disks that grow under a guest, with real processes: whoever was connected goes on, whoever connects sees the new size,
// and the replica grows too, without being read anew.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { remoteReadBytes, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';

const MIB = 2 ** 20;
const SIZE = 16 * MIB;

let dir: TempDir;
const undo: Array<() => Promise<unknown>> = [];

beforeEach(() => {
  dir = tempDir();
  fs.writeFileSync(dir.file('a.img'), randomBytes(SIZE));
});
afterEach(async () => {
  for (const one of undo.splice(0).reverse()) await one();
  dir.remove();
});

async function hub(args: readonly string[], port = 0): Promise<CliProcess> {
  const state = ['--state-dir', dir.file('hub-state')];
  const started = await startHub([...args, '--listen', `127.0.0.1:${port}`, ...state]);
  undo.push(() => started.kill());
  return started;
}

async function agent(args: readonly string[]): Promise<CliProcess> {
  const started = await startServe([
    `a=${dir.file('a.img')}`,
    ...args,
    '--state-dir',
    dir.file('agent-state'),
  ]);
  undo.push(() => started.kill());
  return started;
}

async function resize(one: CliProcess, size: string): Promise<string> {
  const { code, stdout, stderr } = await runCli(['resize', 'a', size, '--control', one.control]);
  expect([code, stderr]).toEqual([0, '']);
  return stdout;
}

describe('a disk that grows', () => {
  test.each(['paired', 'stored'])(
    'takes its %s replica with it, and only what is new is read',
    async (how) => {
      const replica = how === 'paired' ? dir.file('a.replica') : dir.file('store/vm/a');
      if (how === 'paired') {
        fs.writeFileSync(replica, '');
        fs.truncateSync(replica, SIZE);
      }
      const hubProcess = await hub(how === 'paired' ? [`a=${replica}`] : ['--store', dir.file('store')]);
      const agentProcess = await agent(['--hub', `127.0.0.1:${hubProcess.port}`, '--vm-name', 'vm']);
      const url = agentProcess.urls[0]!;
      const before = await openNbdDevice(url, { logger: silentLogger });
      await waitProtected(agentProcess);
      const read = await remoteReadBytes(agentProcess);

      let isOver = false;
      const load = (async () => {
        for (let i = 0; !isOver; i += 1)
          await before.write((i % 256) * 4096, randomBytes(4096), i % 16 === 0);
      })();
      expect(await resize(agentProcess, '24M')).toBe(
        'a: 16 MiB -> 24 MiB; clients see it when they connect anew\n',
      );
      const after = await openNbdDevice(url, { logger: silentLogger });
      expect([before.sizeBytes, after.sizeBytes]).toEqual([SIZE, 24 * MIB]);
      const data = randomBytes(64 * 1024);
      await after.write(24 * MIB - data.length, data, false);
      isOver = true;
      await load;
      await before.close();
      await after.close();
      await waitProtected(agentProcess);
      await waitProtected(hubProcess);
      expect((await runCli(['verify', '--control', agentProcess.control])).code).toBe(0);
      // What was added, and what of the load was on its way when the connection was made anew.
      expect((await remoteReadBytes(agentProcess)) - read).toBeLessThan(12 * MIB);

      expect(await resize(agentProcess, '+1M')).toContain('24 MiB -> 25 MiB');
      await waitProtected(agentProcess);
      await waitProtected(hubProcess);
      expect(await agentProcess.stop()).toEqual({ code: 0, signal: null });
      expect(await hubProcess.stop()).toEqual({ code: 0, signal: null });
      expect(fs.statSync(replica).size).toBe(25 * MIB);
      expect(spawnSync('cmp', [dir.file('a.img'), replica]).stdout.toString()).toBe('');
    },
  );

  test('while no hub is there takes the replica with it when it comes back', async () => {
    const first = await hub(['--store', dir.file('store')]);
    const agentProcess = await agent(['--hub', `127.0.0.1:${first.port}`, '--vm-name', 'vm']);
    await waitProtected(agentProcess);
    await first.kill();
    await resize(agentProcess, '20M');
    const second = await hub(['--store', dir.file('store')], first.port);
    await waitProtected(agentProcess);
    expect(await agentProcess.stop()).toEqual({ code: 0, signal: null });
    expect(await second.stop()).toEqual({ code: 0, signal: null });
    expect(spawnSync('cmp', [dir.file('a.img'), dir.file('store/vm/a')]).stdout.toString()).toBe('');
  });

  test('cannot become smaller, nor an odd size, nor another one than the format allows', async () => {
    const agentProcess = await agent([]);
    const failing = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await runCli(['resize', ...args, '--control', agentProcess.control]);
      expect(stdout).toBe('');
      return `${code} ${stderr.trim()}`;
    };
    expect(await failing('a', '8M')).toMatch(/^1 .*it only grows/);
    expect(await failing('a', '16M')).toMatch(/^1 .*it only grows/);
    expect(await failing('a', '1000')).toMatch(/^2 .*SIZE: 1000 is no multiple of 512/);
    expect(await failing('b', '32M')).toMatch(
      /^1 .*there is no volume b \(there are: a\)|^1 .*there is no volume b/,
    );
    expect(await failing('a')).toMatch(/^2 .*name the volume and its new size/);
    expect(fs.statSync(dir.file('a.img')).size).toBe(SIZE);
  });

  test('of a hub is refused there: its agent has to grow it', async () => {
    const hubProcess = await hub(['--store', dir.file('store')]);
    const agentProcess = await agent(['--hub', `127.0.0.1:${hubProcess.port}`, '--vm-name', 'vm']);
    await waitProtected(agentProcess);
    const { code, stderr } = await runCli(['resize', 'a', '+1M', '--control', hubProcess.control]);
    expect([code, stderr]).toEqual([1, expect.stringContaining('this process cannot resize volumes')]);
  });
});
