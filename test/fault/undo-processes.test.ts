// A hub that is killed, or runs out of room, while a resync overwrites its replica: `repagent recover` gives the disk as
// it was at the last consistent point, byte by byte, and replication goes on from there by the agent's map.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { runCli } from '../support/cli.ts';
import { MirrorPair, volumeAt } from '../support/mirror-pair.ts';
import { makeFolder, makeImage } from '../support/rig.ts';
import { canMount, SmallDisk } from '../support/small-disk.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 16 * MiB;
const CHUNK = 64 * KiB;
const CHUNKS = SIZE / CHUNK;
const BLOCK = 4 * KiB;

/** Room for one test, and a disk in it. */
function stage(): { readonly dir: Disposable; readonly file: (name: string) => string } {
  const dir = makeFolder();
  const file = (name: string): string => join(dir.path, name);
  makeImage(file('a.img'), SIZE, [[0, SIZE / MiB]]);
  return { dir, file };
}

/** Writes a block of each of `count` chunks. */
async function write(pair: MirrorPair, first: number, count: number): Promise<void> {
  const guest = await openNbdDevice(pair.uri, { logger: silentLogger });
  for (let chunk = first; chunk < first + count; chunk += 1) {
    await guest.write((chunk % CHUNKS) * CHUNK + (chunk % 16) * BLOCK, randomBytes(BLOCK), false);
  }
  await guest.close();
}

/**
 * Both protected once, then a disk that has changed in `chunks` while no hub heard of it. Nothing runs any more.
 * @param before where it is kept what the disk was when both were protected
 */
async function leaveBehind(pair: MirrorPair, chunks: number, before: string): Promise<void> {
  await pair.start();
  await pair.settled();
  await write(pair, 0, 5);
  await pair.settled();
  expect(await pair.hub.stop()).toEqual({ code: 0, signal: null });
  fs.copyFileSync(pair.disk, before);
  await write(pair, 1, chunks);
  expect(await pair.agent.stop()).toEqual({ code: 0, signal: null });
}

function untilHub(
  pair: MirrorPair,
  what: string,
  is: (volume: VolumeStatus) => boolean,
): Promise<VolumeStatus> {
  return waitUntil(
    async () => {
      const volume = await volumeAt(pair.hub);
      return volume && is(volume) ? volume : undefined;
    },
    { what, timeoutMs: 40_000, intervalMs: 50 },
  );
}

function expectSame(one: string, other: string): void {
  expect(spawnSync('cmp', [one, other]).stdout.toString()).toBe('');
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
    const { dir, file } = stage();
    using _ = dir;
    const before = file('before');
    const agentArgs: string[] = [];
    const store = file('store');
    await using pair = new MirrorPair({ folder: file(''), sizeBytes: SIZE, store, agentArgs });
    const { replica } = pair;
    const chunks = 100;
    await leaveBehind(pair, chunks, before);
    // Slow enough to be stopped in the middle: 6 MiB are to be read.
    agentArgs.push('--hub-bandwidth', '256K');
    await pair.start();
    await write(pair, CHUNKS - 10, 20);
    const { failoverTo } = await untilHub(pair, 'a part of the resync', (volume) => {
      return volume.failoverTo?.by === 'recover' && volume.syncDoneBytes > MiB / 2;
    });
    pair.agent.signal('SIGSTOP');
    const refused = await runCli(['recover', replica]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/is in use: a hub/)]);
    await pair.hub.kill();
    const mixed = fs.readFileSync(replica);
    for (const state of [before, pair.disk]) expect(mixed.equals(fs.readFileSync(state))).toBe(false);

    const check = await recover(replica, '--check');
    expect(fs.readFileSync(replica).equals(mixed), '--check changes nothing').toBe(true);
    const { sequence, timeMs } = failoverTo!;
    expect(check).toMatchObject({ isExact: true, sequence, timeMs });
    const done = await recover(replica);
    expect(done).toMatchObject({ ...check, checkOnly: false });
    // Of each 64 KiB that was read 4 KiB had changed, and nothing else is kept.
    expect(done.bytes).toBeGreaterThanOrEqual((MiB / 2 / CHUNK) * BLOCK);
    expect(done.bytes).toBeLessThanOrEqual((chunks + 20) * BLOCK);
    expectSame(replica, before);
    expect(await recover(replica)).toMatchObject({ bytes: 0, isExact: true, sequence });

    pair.agent.signal('SIGCONT');
    expect(await pair.agent.stop()).toEqual({ code: 0, signal: null });
    agentArgs.length = 0;
    await pair.start();
    await pair.expectEqual();
    const { resyncs, failoverTo: now } = (await volumeAt(pair.hub))!;
    expect(resyncs![0]!.readBytes).toBeGreaterThanOrEqual(chunks * CHUNK);
    expect(resyncs![0]!.readBytes).toBeLessThanOrEqual((chunks + 25) * CHUNK);
    expect(now?.by).toBe('replica');
    expect(fs.readdirSync(file('store/vm'))).toEqual(['a', 'a%record']);
  });
});

if (!canMount)
  process.stdout.write('  SKIPPED, a full disk under the undo log: only root may mount a small one\n');

describe.skipIf(!canMount)('a full disk under the undo log', () => {
  test('holds the replica at its last point, which comes back, and costs no guest', async () => {
    const { dir, file } = stage();
    using _ = dir;
    const before = file('before');
    fs.mkdirSync(file('small'));
    using small = new SmallDisk(file('small'), 8 * MiB);
    const hubState = small.path;
    await using pair = new MirrorPair({ folder: file(''), sizeBytes: SIZE, hubState });
    const { replica } = pair;
    await leaveBehind(pair, CHUNKS, before);
    // Room for a third of what is to be kept: 1 MiB of old bytes.
    small.fill(80);
    await pair.start();
    const isHeld = ({ state }: VolumeStatus): boolean => state === 'failed';
    const held = await untilHub(pair, 'the replica to be held', isHeld);
    expect(held.lastError).toMatch(/held at its last point.*no room.*--undo-full release/);
    expect(held.failoverTo).toMatchObject({ by: 'recover', isExact: true });
    // Whoever writes to the disk doesn't wait for any of it.
    await write(pair, 3, 500);
    expect((await volumeAt(pair.hub))!.state).toBe('failed');
    await pair.hub.kill();
    // As full as it is.
    expect((await recover(`a=${replica}`, '--state-dir', hubState)).isExact).toBe(true);
    expectSame(replica, before);

    await pair.startHub();
    await untilHub(pair, 'the replica to be held again', isHeld);
    small.makeRoom();
    await pair.expectEqual();
  });
});
