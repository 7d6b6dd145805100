// A hub that is killed, or runs out of room, while a resync overwrites its replica: `repagent recover` gives the disk as
// it was at the last consistent point, byte by byte, and replication goes on from there by the agent's map.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const CHUNK = 64 * KIB;
const CHUNKS = SIZE / CHUNK;
const BLOCK = 4 * KIB;

let dir: TempDir;
let undo: Array<() => Promise<unknown> | unknown> = [];
let hub: CliProcess;
let agent: CliProcess;
let hubPort = 0;

beforeEach(() => {
  dir = tempDir();
  hubPort = 0;
  fs.writeFileSync(dir.file('a.img'), randomBytes(SIZE));
});
afterEach(async () => {
  for (const one of undo.reverse()) await one();
  undo = [];
  dir.remove();
});

async function runHub(store: readonly string[], stateDir = dir.file('hub-state')): Promise<void> {
  const started = await startHub([
    ...store,
    '--listen',
    `127.0.0.1:${hubPort}`,
    '--state-dir',
    stateDir,
    '--undo-full',
    'hold',
  ]);
  undo.push(() => started.kill());
  hub = started;
  hubPort = started.port;
}

async function runAgent(...more: readonly string[]): Promise<void> {
  const own = ['--hub', `127.0.0.1:${hubPort}`, '--vm-name', 'vm', '--state-dir', dir.file('agent-state')];
  const started = await startServe([`a=${dir.file('a.img')}`, ...own, ...more]);
  undo.push(() => started.kill());
  agent = started;
}

const volumeAt = async (one: CliProcess): Promise<VolumeStatus> => (await readStatus(one)).volumes[0]!;

function untilHub(what: string, is: (volume: VolumeStatus) => boolean): Promise<VolumeStatus> {
  return waitUntil(
    async () => {
      const volume = await volumeAt(hub);
      return is(volume) ? volume : undefined;
    },
    { what, timeoutMs: 30_000, intervalMs: 50 },
  );
}

function expectSameFiles(one: string, other: string): void {
  expect(spawnSync('cmp', [one, other]).stdout.toString()).toBe('');
}

/** A block of each of `count` chunks. */
async function write(guest: BlockDevice, first: number, count: number): Promise<void> {
  for (let chunk = first; chunk < first + count; chunk += 1) {
    await guest.write((chunk % CHUNKS) * CHUNK + (chunk % 16) * BLOCK, randomBytes(BLOCK), false);
  }
}

/** Both protected once, then a disk that has changed in `chunks` while no hub heard of it: `before` is what it was. */
async function leaveBehind(store: readonly string[], chunks: number, stateDir?: string): Promise<void> {
  await runHub(store, stateDir);
  await runAgent();
  await waitProtected(agent);
  const guest = await openNbdDevice(agent.urls[0]!, { logger: silentLogger });
  await write(guest, 0, 5);
  await waitUntil(async () => isAcked(await volumeAt(agent)), { what: 'all to be acknowledged' });
  expect(await hub.stop()).toEqual({ code: 0, signal: null });
  fs.copyFileSync(dir.file('a.img'), dir.file('before'));
  await write(guest, 1, chunks);
  await guest.close();
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
}

function isAcked({ state, sequence, ackedSequence }: VolumeStatus): boolean {
  return state === 'protected' && sequence > 0 && ackedSequence === sequence;
}

interface Recovered {
  readonly bytes: number;
  readonly sequence: number | null;
  readonly timeMs: number | null;
  readonly isExact: boolean;
}

async function recover(...args: readonly string[]): Promise<Recovered> {
  const { code, stdout, stderr } = await runCli(['recover', '--json', ...args]);
  expect([code, stderr]).toEqual([0, '']);
  return JSON.parse(stdout) as Recovered;
}

describe('a hub that is killed in a resync', () => {
  test('leaves what `recover` puts back exactly, and the agent goes on by its map', async () => {
    const replica = dir.file('store/vm/a');
    const store = ['--store', dir.file('store')];
    const chunks = 100;
    await leaveBehind(store, chunks);
    await runHub(store);
    // Slow enough to be stopped in the middle: 6 MiB are to be read.
    await runAgent('--hub-bandwidth', '256K');
    const guest = await openNbdDevice(agent.urls[0]!, { logger: silentLogger });
    await write(guest, CHUNKS - 10, 20);
    await guest.close();
    const { failoverTo } = await untilHub('a part of the resync', ({ failoverTo: to, syncDoneBytes }) => {
      return to?.by === 'recover' && syncDoneBytes > MIB / 2;
    });
    agent.signal('SIGSTOP');
    const refused = await runCli(['recover', replica]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/is in use: a hub/)]);
    await hub.kill();
    const mixed = fs.readFileSync(replica);
    for (const state of ['before', 'a.img'])
      expect(mixed.equals(fs.readFileSync(dir.file(state)))).toBe(false);

    const check = await recover(replica, '--check');
    expect(fs.readFileSync(replica).equals(mixed), '--check changes nothing').toBe(true);
    expect(check).toMatchObject({
      isExact: true,
      sequence: failoverTo!.sequence,
      timeMs: failoverTo!.timeMs,
    });
    const done = await recover(replica);
    expect(done).toMatchObject({ ...check, checkOnly: false });
    // Of each 64 KiB that was read 4 KiB had changed, and nothing else is kept.
    expect(done.bytes).toBeGreaterThanOrEqual((MIB / 2 / CHUNK) * BLOCK);
    expect(done.bytes).toBeLessThanOrEqual((chunks + 20) * BLOCK);
    expectSameFiles(replica, dir.file('before'));
    expect(await recover(replica)).toMatchObject({ bytes: 0, isExact: true, sequence: done.sequence });
    expectSameFiles(replica, dir.file('before'));

    agent.signal('SIGCONT');
    expect(await agent.stop()).toEqual({ code: 0, signal: null });
    await runHub(store);
    await runAgent();
    await waitProtected(agent);
    await waitProtected(hub);
    const { resyncs, failoverTo: now } = await volumeAt(hub);
    expect(resyncs![0]!.readBytes).toBeGreaterThanOrEqual(chunks * CHUNK);
    expect(resyncs![0]!.readBytes).toBeLessThanOrEqual((chunks + 25) * CHUNK);
    expect(now?.by).toBe('replica');
    expectSameFiles(replica, dir.file('a.img'));
    expect(fs.readdirSync(dir.file('store/vm'))).toEqual(['a', 'a%record']);
  });
});

const isRoot = process.getuid?.() === 0;

describe('a full disk under the undo log', () => {
  test.skipIf(!isRoot)(
    'holds the replica at its last point, which comes back, and costs no guest',
    async () => {
      const small = dir.file('small');
      fs.mkdirSync(small);
      const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small]);
      expect(mounted.status, mounted.stderr.toString()).toBe(0);
      undo.push(() => expect(spawnSync('umount', ['-l', small]).status).toBe(0));
      const replica = dir.file('a.replica');
      fs.writeFileSync(replica, '');
      fs.truncateSync(replica, SIZE);
      const store = [`a=${replica}`];
      await leaveBehind(store, CHUNKS, small);
      // Room for a third of what is to be kept: 1 MiB of old bytes.
      const filler = `${small}/filler`;
      fs.writeFileSync(filler, Buffer.alloc(700 * KIB, 1));
      await runHub(store, small);
      await runAgent();
      const held = await untilHub('the replica to be held', ({ state }) => state === 'failed');
      expect(held.lastError).toMatch(/held at its last point.*no room.*--undo-full release/);
      expect(held.failoverTo).toMatchObject({ by: 'recover', isExact: true });
      // Whoever writes to the disk doesn't wait for any of it.
      const guest = await openNbdDevice(agent.urls[0]!, { logger: silentLogger });
      await write(guest, 3, 500);
      await guest.close();
      expect((await volumeAt(hub)).state).toBe('failed');
      await hub.kill();
      // As full as it is.
      expect((await recover(`a=${replica}`, '--state-dir', small)).isExact).toBe(true);
      expectSameFiles(replica, dir.file('before'));

      await runHub(store, small);
      await untilHub('the replica to be held again', ({ state }) => state === 'failed');
      fs.rmSync(filler);
      spawnSync('mount', ['-o', 'remount,size=8m', small]);
      await waitProtected(hub);
      expectSameFiles(replica, dir.file('a.img'));
    },
  );
});
