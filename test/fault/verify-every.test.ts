// A hub that compares by itself: a replica that was changed behind its back is found out, to the range, and read anew or
// only told of. Both sides as processes.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const MIB = 2 ** 20;
const SIZE = 8 * MIB;
const UNIT = 256 * 1024;

let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
  fs.writeFileSync(dir.file('a.img'), randomBytes(SIZE));
  fs.writeFileSync(dir.file('a.replica'), '');
  fs.truncateSync(dir.file('a.replica'), SIZE);
});
afterEach(() => dir.remove());

async function untilHub(
  hub: CliProcess,
  what: string,
  condition: (volume: VolumeStatus) => boolean,
): Promise<VolumeStatus> {
  let volume: VolumeStatus | undefined;
  const holds = async (): Promise<boolean> => {
    volume = (await readStatus(hub)).volumes[0];
    return volume !== undefined && condition(volume);
  };
  await waitUntil(holds, { what, timeoutMs: 30_000, intervalMs: 20 });
  return volume!;
}

/** Changes the replica as a bad disk would. */
function rot(offset: number): void {
  const file = fs.openSync(dir.file('a.replica'), 'r+');
  fs.writeSync(file, Buffer.from('rot'), 0, 3, offset);
  fs.closeSync(file);
}

function isEqual(): boolean {
  return spawnSync('cmp', ['-s', dir.file('a.img'), dir.file('a.replica')]).status === 0;
}

async function start(
  more: readonly string[],
): Promise<{ readonly hub: CliProcess; readonly agent: CliProcess }> {
  const hub = await startHub([`a=${dir.file('a.replica')}`, '--state-dir', dir.file('hub-state'), ...more]);
  const own = ['--hub', `127.0.0.1:${hub.port}`, '--state-dir', dir.file('agent-state')];
  const agent = await startServe([`a=${dir.file('a.img')}`, ...own]);
  await waitProtected(agent);
  return { hub, agent };
}

it('finds what differs, reads it anew, and finds it equal then', async () => {
  const started = await start(['--verify-every', '1s', '--verify-rate', '16M']);
  await using hub = started.hub;
  await using agent = started.agent;
  const first = await untilHub(
    hub,
    'a first comparison',
    ({ verification }) => verification?.outcome === 'equal',
  );
  expect(first.verification).toMatchObject({
    by: 'schedule',
    comparedBytes: SIZE,
    differing: [],
    action: 'none',
  });
  // 8 MiB at 16 MiB/s.
  expect(first.verification!.durationMs).toBeGreaterThan(400);
  expect(first.verifiedAt).not.toBeNull();
  rot(3 * MIB + 5);
  const found = await untilHub(
    hub,
    'the difference',
    ({ verification }) => verification?.outcome === 'differs',
  );
  expect(found.verification).toMatchObject({
    differing: [{ offset: 3 * MIB, length: UNIT }],
    differingBytes: UNIT,
    action: 'resync',
  });
  const resynced = await untilHub(
    hub,
    'the resync',
    ({ state, resyncs }) => state === 'protected' && resyncs![0]!.reason === 'verification',
  );
  expect(resynced.resyncs![0]).toMatchObject({ outcome: 'done', readBytes: UNIT });
  await untilHub(hub, 'equality', ({ verification }) => verification?.outcome === 'equal');
  expect(isEqual()).toBe(true);
  const told = (await readStatus(agent)).volumes[0]!;
  expect(told.resyncs![0]).toMatchObject({ reason: 'verification', outcome: 'done' });
  const table = await runCli(['status', '--control', hub.control]);
  expect(table.stdout).toContain('last verification: 8 MiB equal');
  expect(table.stdout).toContain('last resync: verification, ');
});

it('only tells, where that was chosen, and leaves both disks as they are', async () => {
  const started = await start(['--verify-every', '1s', '--on-difference', 'report']);
  await using hub = started.hub;
  await using _agent = started.agent;
  await untilHub(hub, 'a first comparison', ({ verification }) => verification?.outcome === 'equal');
  rot(MIB);
  const found = await untilHub(
    hub,
    'the difference',
    ({ verification }) => verification?.outcome === 'differs',
  );
  expect(found).toMatchObject({
    state: 'protected',
    verification: { action: 'report', differingBytes: UNIT },
  });
  expect(found.resyncs).toHaveLength(1);
  expect(isEqual()).toBe(false);
  expect(hub.logs()).toContain('"differingBytes":262144');
});
