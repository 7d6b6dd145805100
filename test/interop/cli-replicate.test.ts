// Agent and hub as processes: what a user sees from the first sync to a crash of the hub and the end of both.
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { ProcessStatus } from '../../src/control/status.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 8 * 2 ** 20;

let dir: string;
let disk: string;
let replica: string;
const running: CliProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-repl-'));
  disk = join(dir, 'disk.img');
  replica = join(dir, 'replica.img');
  writeFileSync(disk, Buffer.alloc(SIZE, 'some content of a disk '));
  writeFileSync(replica, '');
  truncateSync(replica, SIZE);
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.kill();
  rmSync(dir, { recursive: true, force: true });
});

/** Each process of a test keeps its records in the test's own folder. */
const state = (name: string): string[] => ['--state-dir', join(dir, name)];

async function hub(args: string[] = [], listen = '127.0.0.1:0'): Promise<CliProcess> {
  const started = await startHub([`disk=${replica}`, '--listen', listen, ...state('hub'), ...args]);
  running.push(started);
  return started;
}

async function agent(port: number, args: string[] = []): Promise<CliProcess> {
  const started = await startServe([
    `disk=${disk}`,
    '--hub',
    `127.0.0.1:${port}`,
    '--vm-name',
    'box',
    ...state('agent'),
    ...args,
  ]);
  running.push(started);
  return started;
}

const equalFiles = (): boolean => readFileSync(disk).equals(readFileSync(replica));

async function write(device: BlockDevice, offset: number, text: string): Promise<void> {
  await device.write(offset, Buffer.alloc(4096, text), false);
}

describe('replication from the command line', () => {
  test('a volume becomes protected, follows writes, and both ends stop in order', async () => {
    const hubProcess = await hub();
    expect(hubProcess.stdout()).toMatch(/^listening repagent:\/\/127\.0\.0\.1:\d+\n$/);
    const agentProcess = await agent(hubProcess.port);
    const waited = await runCli([
      ...['wait', '--state', 'protected', '--timeout', '30'],
      ...['--control', agentProcess.control],
    ]);
    expect([waited.code, waited.stderr]).toEqual([0, '']);

    const device = await openNbdDevice(agentProcess.urls[0]!, { logger: silentLogger });
    await write(device, 8192, 'a');
    await device.writeZeroes(65536, 65536, false, true);
    await device.trim(2 ** 20, 2 ** 20, false);
    await device.flush();
    await device.close();
    await waitProtected(agentProcess);

    const verified = await runCli(['verify', '--control', agentProcess.control]);
    expect(verified.stdout).toMatch(/^disk: 8 MiB compared in .*, equal\n$/);
    expect(verified.code).toBe(0);

    for (const [one, role] of [
      [agentProcess, 'agent'],
      [hubProcess, 'hub'],
    ] as const) {
      const printed = await runCli(['status', '--json', '--control', one.control]);
      const status = JSON.parse(printed.stdout) as ProcessStatus;
      expect(status).toMatchObject({ role, pid: one.pid, listening: one.urls });
      expect(status.volumes).toMatchObject([
        { name: 'disk', vmName: 'box', state: 'protected', sizeBytes: SIZE },
      ]);
    }
    expect((await runCli(['status', '--control', hubProcess.control])).stdout).toMatch(
      /disk +box +protected +[#█]+ +100%/,
    );

    expect(await agentProcess.stop()).toEqual({ code: 0, signal: null });
    expect(await hubProcess.stop()).toEqual({ code: 0, signal: null });
    expect(equalFiles()).toBe(true);
    expect(agentProcess.stdout().split('\n')).toHaveLength(2);
    expect(hubProcess.stdout().split('\n')).toHaveLength(2);
  });

  test('--once ends the hub when the agent has shut down', async () => {
    const hubProcess = await hub(['--once']);
    const agentProcess = await agent(hubProcess.port);
    await waitProtected(agentProcess);
    expect(await agentProcess.stop()).toEqual({ code: 0, signal: null });
    expect(await hubProcess.exited).toEqual({ code: 0, signal: null });
    expect(equalFiles()).toBe(true);
  });

  test('a killed hub disturbs nobody, and a new one converges', async () => {
    const first = await hub();
    const agentProcess = await agent(first.port);
    await waitProtected(agentProcess);
    const device = await openNbdDevice(agentProcess.urls[0]!, { logger: silentLogger });
    await first.kill();
    await write(device, 0, 'while the hub is away');
    await device.flush();
    await waitUntil(async () => (await readStatus(agentProcess)).volumes[0]?.state === 'degraded', {
      what: 'degraded',
    });
    const degraded = await readStatus(agentProcess);
    expect(degraded.volumes[0]!.dirtyBytes).toBeGreaterThan(0);
    const wait = await runCli(['wait', '--timeout', '0.3', '--control', agentProcess.control]);
    expect(wait.code).toBe(1);
    expect(wait.stderr).toMatch(
      /not protected after 0\.3 s: box\/disk state=degraded .*hub 127\.0\.0\.1:\d+ is /,
    );
    const second = await hub([], `127.0.0.1:${first.port}`);
    await waitProtected(agentProcess);
    await device.close();
    await agentProcess.stop();
    await second.stop();
    expect(equalFiles()).toBe(true);
  });

  test('verify names the range that differs, from either side', async () => {
    const hubProcess = await hub();
    const agentProcess = await agent(hubProcess.port);
    await waitProtected(agentProcess);
    const fd = openSync(replica, 'r+');
    writeSync(fd, Buffer.alloc(512, 'x'), 0, 512, 3 * 2 ** 20);
    closeSync(fd);
    for (const one of [agentProcess, hubProcess]) {
      const { code, stdout } = await runCli(['verify', '--volume', 'disk', '--control', one.control]);
      expect(stdout).toMatch(/^disk: 8 MiB compared in .*, DIFFERENT in .*:\n {2}offset \d+ length \d+\n$/);
      const [, offset, length] = /offset (\d+) length (\d+)/.exec(stdout)!.map(Number);
      expect(offset).toBeLessThanOrEqual(3 * 2 ** 20);
      expect(offset! + length!).toBeGreaterThanOrEqual(3 * 2 ** 20 + 512);
      expect(code).toBe(1);
      const json = JSON.parse(
        (await runCli(['verify', '--json', '--control', one.control])).stdout,
      ) as unknown;
      expect(json).toMatchObject({ equal: false, volumes: [{ volume: 'disk', comparedBytes: SIZE }] });
    }
  });

  test('a small queue, a rate of reads, and filters around the mirror change nothing', async () => {
    const hubProcess = await hub();
    const filters = ['--filter', 'stats,quiet', '--filter', 'repagent', '--filter', 'log'];
    const bounds = ['--queue-bytes', '64K', '--resync-rate', '20M'];
    const agentProcess = await agent(hubProcess.port, [...bounds, ...filters]);
    await waitProtected(agentProcess);
    expect((await readStatus(agentProcess)).resyncReads).toMatchObject({
      rate: 20 * 2 ** 20,
      yielding: false,
    });
    const device = await openNbdDevice(agentProcess.urls[0]!, { logger: silentLogger });
    await Promise.all(Array.from({ length: 200 }, (_, n) => write(device, n * 40960 + 100, `number ${n}`)));
    await device.close();
    await waitProtected(agentProcess);
    await agentProcess.stop();
    await hubProcess.stop();
    expect(equalFiles()).toBe(true);
  });

  test('two machines at one hub that keeps every volume', async () => {
    const store = join(dir, 'store');
    const hubProcess = await startHub(['--store', store, ...state('hub')]);
    running.push(hubProcess);
    const other = join(dir, 'other.img');
    writeFileSync(other, Buffer.alloc(65536, 'other'));
    const one = await agent(hubProcess.port);
    const two = await startServe([
      `disk=${other}`,
      '--hub',
      `127.0.0.1:${hubProcess.port}`,
      '--vm-name',
      'second',
      ...state('agent2'),
    ]);
    running.push(two);
    await waitProtected(one);
    await waitProtected(two);
    const verified = await runCli(['verify', '--control', hubProcess.control]);
    expect(verified.stdout).toMatch(/box\/disk: 8 MiB .* equal\n.*second\/disk: 64 KiB .* equal/);
    await one.stop();
    await two.stop();
    await hubProcess.stop();
    expect(existsSync(join(store, 'box'))).toBe(true);
    expect(existsSync(join(store, 'second'))).toBe(true);
  });
});

describe('what goes wrong', () => {
  test("a hub's port in use is named, with what to do", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as AddressInfo;
    const { code, stdout, stderr } = await runCli([
      'hub',
      `disk=${replica}`,
      '--listen',
      `127.0.0.1:${port}`,
      ...state('hub'),
    ]);
    other.close();
    expect(stderr.trimEnd().split('\n').at(-1)).toBe(
      `repagent: address in use: 127.0.0.1:${port}; choose another with --listen`,
    );
    expect([code, stdout]).toEqual([1, '']);
  });

  test('an agent without a hub serves all the same, and says that nobody is there', async () => {
    const free = createServer();
    await new Promise<void>((resolve) => free.listen(0, '127.0.0.1', resolve));
    const { port } = free.address() as AddressInfo;
    await new Promise((resolve) => free.close(resolve));
    const agentProcess = await agent(port);
    const device = await openNbdDevice(agentProcess.urls[0]!, { logger: silentLogger });
    await write(device, 0, 'alone');
    await device.close();
    const status = await waitUntil(
      async () => {
        const now = await readStatus(agentProcess);
        return now.link?.lastError ? now : undefined;
      },
      { what: 'an error of the link' },
    );
    expect(status.link).toMatchObject({ hub: `127.0.0.1:${port}` });
    expect(status.volumes[0]!.state).not.toBe('protected');
    expect(await agentProcess.stop()).toEqual({ code: 0, signal: null });
  });

  test('a volume of another size is refused on both sides, in words', async () => {
    truncateSync(replica, SIZE / 2);
    const hubProcess = await hub();
    const agentProcess = await agent(hubProcess.port);
    const seen = await waitUntil(
      async () => {
        const now = await readStatus(hubProcess);
        return now.volumes.find((volume) => volume.lastError !== null);
      },
      { what: "the hub's error" },
    );
    expect(seen.lastError).toMatch(/size|bytes|MiB/);
    const { code, stderr } = await runCli(['wait', '--timeout', '1', '--control', agentProcess.control]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/not protected/);
  });
});
