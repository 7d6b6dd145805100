// Snapshots of a disk in use, with real processes: whoever is paused waits and loses nothing, whoever paused it learns
// whether the copy is good, and no script that is killed leaves a guest hanging.
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { CLI_PATH, type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { startPeer } from '../support/peers.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 16 * 2 ** 20;

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

async function agent(...args: string[]): Promise<CliProcess> {
  const started = await startServe([`a=${dir.file('a.img')}`, ...args, '--state-dir', dir.file('agent')]);
  undo.push(() => started.kill());
  return started;
}

async function cli(one: CliProcess, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runCli([...args, '--control', one.control]);
  return `${code} ${stdout}${stderr}`.trim();
}

function digest(path: string): string {
  return createHash('sha256').update(fs.readFileSync(path)).digest('hex');
}

/** Writes and flushes for ever, at depth 4. */
async function startLoad(one: CliProcess) {
  const device = await openNbdDevice(`nbd://127.0.0.1:${one.port}/a`, { logger: silentLogger });
  let isOver = false;
  let answered = 0;
  const lane = async (from: number): Promise<void> => {
    for (let i = 0; !isOver; i += 1) {
      await device.write(((from + i * 4) % 4000) * 4096, randomBytes(4096), false);
      if (i % 32 === 0) await device.flush();
      answered += 1;
    }
  };
  const lanes = Promise.all([0, 1, 2, 3].map(lane));
  return {
    answered: () => answered,
    stop: async () => {
      isOver = true;
      await lanes;
      await device.close();
    },
  };
}

describe('a paused disk', () => {
  test('stands still under load, replicated or not, and loses nothing', async () => {
    const hub = await startHub(['--store', dir.file('store'), '--state-dir', dir.file('hub')]);
    undo.push(() => hub.kill());
    const serve = await agent('--hub', `127.0.0.1:${hub.port}`, '--vm-name', 'vm');
    const load = await startLoad(serve);
    await waitUntil(() => load.answered() > 200, { what: 'load' });
    const path = dir.file('a.img');
    for (const flush of [[], ['--flush']]) {
      expect(await cli(serve, 'pause', 'a', '--timeout', '60s', ...flush)).toMatch(/^0 a: paused; .* 1m00s$/);
      const before = load.answered();
      const [volume] = (await readStatus(serve)).volumes;
      expect(volume?.paused?.leftMs).toBeGreaterThan(10_000);
      const first = digest(path);
      // The hub goes on with what it lacks, and a client that comes now waits too.
      const qemu = startPeer('qemu-io', [
        '-f',
        'raw',
        '-c',
        'write -P 7 0 4k',
        `nbd://127.0.0.1:${serve.port}/a`,
      ]);
      undo.push(async () => qemu.kill());
      let hasEnded = false;
      const ended = qemu.exited.then((exit) => {
        hasEnded = true;
        return exit;
      });
      await waitProtected(serve, 60);
      fs.copyFileSync(path, dir.file('snapshot.img'));
      expect([digest(path), digest(dir.file('snapshot.img'))]).toEqual([first, first]);
      expect([load.answered(), hasEnded]).toEqual([before, false]);
      expect(await cli(serve, 'pause', 'a')).toMatch(/^1 .*is paused already/);
      expect(await cli(serve, 'resume', 'a')).toMatch(/^0 a: goes on, after/);
      expect((await ended).code).toBe(0);
      await waitUntil(() => load.answered() > before + 100, { what: 'load that goes on' });
      expect(digest(path)).not.toBe(first);
    }
    await load.stop();
    await waitProtected(serve, 60);
    expect(await cli(serve, 'verify')).toMatch(/^0 a: 16 MiB compared in .*, equal$/);
  });

  test('goes on by itself, and resume then says that the copy is not to be trusted', async () => {
    const serve = await agent();
    const load = await startLoad(serve);
    expect(await cli(serve, 'pause', 'a', '--timeout', '300ms')).toMatch(/^0 /);
    const before = load.answered();
    await waitUntil(() => load.answered() > before + 100, { what: 'load that goes on' });
    expect(await cli(serve, 'resume', 'a')).toMatch(/^1 .*not paused any more.*inconsistent/s);
    await load.stop();
    expect(serve.logs()).toContain('the pause ended by itself: nobody resumed it within 300ms');
    expect(await serve.stop()).toEqual({ code: 0, signal: null });
  });

  test('whose script is killed before the pause was acknowledged is not paused', async () => {
    const serve = await agent('--filter', 'delay,write=4s');
    const device = await openNbdDevice(`nbd://127.0.0.1:${serve.port}/a`, { logger: silentLogger });
    const write = device.write(0, Buffer.alloc(4096, 1), false);
    const script = startPeer(process.execPath, [CLI_PATH, 'pause', 'a', '--control', serve.control]);
    undo.push(async () => script.kill());
    await waitUntil(async () => (await readStatus(serve)).volumes[0]?.paused, { what: 'the pause to begin' });
    await script.kill();
    await device.read(0, Buffer.alloc(4096));
    expect((await readStatus(serve)).volumes[0]?.paused).toBeNull();
    await write;
    await device.close();
  });

  test('is finished and closed when the server is stopped', async () => {
    const serve = await agent();
    const device = await openNbdDevice(`nbd://127.0.0.1:${serve.port}/a`, { logger: silentLogger });
    expect(await cli(serve, 'pause', 'a', '--timeout', '1h')).toMatch(/^0 /);
    const data = randomBytes(4096);
    const write = device.write(8192, data, false);
    await waitUntil(async () => (await readStatus(serve)).volumes[0]?.paused?.waitingCalls === 1, {
      what: 'the write to arrive',
    });
    expect(await serve.stop()).toEqual({ code: 0, signal: null });
    await write;
    expect(fs.readFileSync(dir.file('a.img')).subarray(8192, 12_288).equals(data)).toBe(true);
    await device.close().catch(() => {});
  });
});

test('a disk is fenced and opened again, for clients that are connected too', async () => {
  const serve = await agent('--filter', 'readonly,active=off');
  const device = await openNbdDevice(`nbd://127.0.0.1:${serve.port}/a`, { logger: silentLogger });
  await device.write(0, Buffer.alloc(4096, 1), false);
  expect(await cli(serve, 'readonly', 'a', 'on')).toBe('0 a: readonly active=on');
  expect((await readStatus(serve)).volumes[0]?.readOnly).toBe(true);
  await expect((async () => device.write(0, Buffer.alloc(4096, 2), false))()).rejects.toMatchObject({
    code: 'EPERM',
  });
  const late = await openNbdDevice(`nbd://127.0.0.1:${serve.port}/a`, { logger: silentLogger });
  expect(late.limits.readOnly).toBe(true);
  await late.close();
  expect(await cli(serve, 'readonly', 'a', 'off')).toMatch(/^0 /);
  await device.write(0, Buffer.alloc(4096, 3), false);
  await device.close();
  expect(await cli(serve, 'adjust', 'a', 'rate', 'bytes=5')).toMatch(
    /^1 .*has no filter "rate".*--filter rate,/s,
  );
  expect(await cli(serve, 'adjust', 'a', 'readonly', 'actve=on')).toMatch(/^1 .*did you mean active\?/);
  expect(await cli(serve, 'pause', 'b')).toMatch(/^1 .*there is no volume b/);
});
