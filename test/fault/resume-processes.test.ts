// Agent and hub as processes that are ended, in order or by kill -9, alone or both, while a guest writes: afterwards the
// replica is the disk, and what was read for it is what the guest had changed, not the volume.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { BITS_OFFSET } from '../../src/repagent/sidecar-head.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { readStatus, remoteReadBytes, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
const MIB = 2 ** 20;
const SIZE = 48 * MIB;
const CHUNK = 64 * KIB;
const BLOCK = 4 * KIB;

let dir: TempDir;
let undo: Array<() => Promise<unknown> | unknown> = [];

beforeEach(() => {
  dir = tempDir();
  fs.writeFileSync(dir.file('a.img'), randomBytes(SIZE));
});
afterEach(async () => {
  for (const one of undo.reverse()) await one();
  undo = [];
  dir.remove();
});

/** The two processes, at the same places through all their lives. */
class Pair {
  readonly #storeArgs: readonly string[];
  hub!: CliProcess;
  agent!: CliProcess;
  hubPort = 0;

  constructor(paired: boolean) {
    if (paired) {
      fs.writeFileSync(dir.file('a.replica'), '');
      fs.truncateSync(dir.file('a.replica'), SIZE);
    }
    this.#storeArgs = paired ? [`a=${dir.file('a.replica')}`] : ['--store', dir.file('store')];
    this.replica = paired ? dir.file('a.replica') : dir.file('store/vm/a');
  }

  readonly replica: string;

  async startHub(): Promise<void> {
    const listen = ['--listen', `127.0.0.1:${this.hubPort}`, '--state-dir', dir.file('hub-state')];
    const started = await startHub([...this.#storeArgs, ...listen]);
    this.hub = started;
    undo.push(() => started.kill());
    this.hubPort = this.hub.port;
  }

  async startAgent(more: readonly string[] = [], state = 'agent-state'): Promise<void> {
    const own = ['--hub', `127.0.0.1:${this.hubPort}`, '--vm-name', 'vm', '--state-dir', dir.file(state)];
    const started = await startServe([`a=${dir.file('a.img')}`, ...own, ...more]);
    this.agent = started;
    undo.push(() => started.kill());
  }

  async protected(): Promise<VolumeStatus> {
    await waitProtected(this.hub);
    await waitProtected(this.agent);
    return (await volumeOf(this.hub))!;
  }

  /** Waits until the agent's map names nothing: what a hub has recorded leaves it, a second or so later. */
  async recorded(): Promise<void> {
    const hasNone = (): boolean =>
      fs
        .readFileSync(dir.file('agent-state/maps/a.map'))
        .subarray(BITS_OFFSET)
        .every((byte) => byte === 0);
    await waitUntil(hasNone, { what: 'a map that names nothing', timeoutMs: 20_000, intervalMs: 20 });
  }

  /** The disk and the replica, while nobody writes. */
  expectEqual(): void {
    expect(spawnSync('cmp', [dir.file('a.img'), this.replica]).stdout.toString()).toBe('');
  }

  guest(): Promise<BlockDevice> {
    return openNbdDevice(this.agent.urls[0]!, { logger: silentLogger });
  }
}

async function volumeOf(one: CliProcess): Promise<VolumeStatus | undefined> {
  return (await readStatus(one)).volumes[0];
}

/** Writes one block into each of `count` chunks. */
async function write(guest: BlockDevice, first: number, count: number): Promise<void> {
  for (let chunk = first; chunk < first + count; chunk += 1) {
    await guest.write(chunk * CHUNK + (chunk % 16) * BLOCK, randomBytes(BLOCK), false);
  }
}

type Ending = 'TERM' | 'KILL';
const MATRIX: ReadonlyArray<{ readonly hub?: Ending; readonly agent?: Ending; readonly paired: boolean }> = [
  { hub: 'TERM', paired: true },
  { hub: 'KILL', paired: true },
  { agent: 'TERM', paired: true },
  { agent: 'KILL', paired: true },
  { hub: 'TERM', agent: 'TERM', paired: false },
  { hub: 'KILL', agent: 'KILL', paired: false },
];

async function end(one: CliProcess, how: Ending): Promise<void> {
  if (how === 'KILL') await one.kill();
  else expect(await one.stop()).toEqual({ code: 0, signal: null });
}

describe('only what changed is read again', () => {
  test.each(MATRIX)('after $hub of the hub, $agent of the agent (paired: $paired)', async (row) => {
    const pair = new Pair(row.paired);
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    await pair.recorded();
    const guest = await pair.guest();
    const before = 20;
    await write(guest, 10, before);
    // The hub goes first, so that the guest has time to write what no hub has heard of.
    let meanwhile = 0;
    if (row.hub) {
      await end(pair.hub, row.hub);
      meanwhile = 15;
      await write(guest, 200, meanwhile);
    }
    await guest.close();
    if (row.agent) await end(pair.agent, row.agent);
    if (row.hub) await pair.startHub();
    if (row.agent) await pair.startAgent();
    const status = await pair.protected();
    process.stdout.write(
      `  re-read ${status.syncTotalBytes / KIB} KiB of ${SIZE / KIB}; written ${(before + meanwhile) * 4} KiB in ${before + meanwhile} chunks\n`,
    );
    expect(status.syncTotalBytes).toBeLessThanOrEqual((before + meanwhile) * CHUNK);
    expect(status.syncTotalBytes).toBeGreaterThanOrEqual(meanwhile * CHUNK);
    pair.expectEqual();
  });
});

describe('where it is not known what differs, digests tell, and only that is moved', () => {
  test('after the map of the agent was lost', async () => {
    const pair = new Pair(true);
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    expect(await remoteReadBytes(pair.agent)).toBe(SIZE);
    await pair.hub.kill();
    const guest = await pair.guest();
    await write(guest, 100, 9);
    await guest.close();
    await pair.agent.kill();
    fs.rmSync(dir.file('agent-state/maps'), { recursive: true });
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    const moved = await remoteReadBytes(pair.agent);
    process.stdout.write(`  moved ${moved / KIB} KiB of ${SIZE / KIB} for 9 changed chunks\n`);
    // Neighbours are compared by 256 KiB and read as a whole.
    expect(moved).toBeGreaterThanOrEqual(9 * CHUNK);
    expect(moved).toBeLessThanOrEqual(9 * CHUNK + 2 * 256 * KIB);
    pair.expectEqual();
  });

  test('after an initial sync was cut short', async () => {
    const pair = new Pair(false);
    await pair.startHub();
    await pair.startAgent();
    const partly = await waitUntil(
      async () => {
        const moved = await remoteReadBytes(pair.agent);
        return moved > SIZE / 4 ? moved : undefined;
      },
      { what: 'a part of the initial sync', timeoutMs: 20_000, intervalMs: 1 },
    );
    await pair.hub.kill();
    await pair.agent.kill();
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    const moved = await remoteReadBytes(pair.agent);
    process.stdout.write(`  moved ${moved / KIB} KiB after ${partly / KIB} KiB of ${SIZE / KIB}\n`);
    // What was on its way when both ended was not stored.
    expect(moved).toBeLessThanOrEqual(SIZE - partly + 16 * MIB);
    expect(moved).toBeLessThan(SIZE);
    pair.expectEqual();
  });
});

describe('stories that do not fit together', () => {
  /** Both protected once, and ended in order. */
  async function settled(): Promise<Pair> {
    const pair = new Pair(true);
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    await pair.agent.stop();
    await pair.hub.stop();
    return pair;
  }

  /** Starts both; the volume must be refused with a reason on both sides, and the replica left alone. */
  async function refusedFor(pair: Pair, reason: RegExp, state = 'agent-state'): Promise<void> {
    const before = fs.readFileSync(pair.replica);
    await pair.startHub();
    await pair.startAgent([], state);
    for (const one of [pair.agent, pair.hub]) {
      const volume = await waitUntil(
        async () => {
          const found = await volumeOf(one);
          return found?.state === 'failed' ? found : undefined;
        },
        { what: 'the volume to be refused', timeoutMs: 20_000, intervalMs: 100 },
      );
      expect(volume.lastError).toMatch(reason);
    }
    expect(fs.readFileSync(pair.replica).equals(before), 'the replica was left alone').toBe(true);
  }

  async function resolveFor(pair: Pair, use: string): Promise<void> {
    const { code, stderr } = await runCli(['resolve', 'a', '--use', use, '--control', pair.hub.control]);
    expect([code, stderr]).toEqual([0, '']);
  }

  async function becomesEqual(pair: Pair): Promise<void> {
    await resolveFor(pair, 'agent');
    await pair.protected();
    pair.expectEqual();
  }

  test('a replica that someone wrote to, until it is said who is right', async () => {
    const pair = await settled();
    const fd = fs.openSync(pair.replica, 'r+');
    fs.writeSync(fd, randomBytes(BLOCK), 0, BLOCK, 5 * CHUNK);
    fs.closeSync(fd);
    await refusedFor(pair, /changed while the hub did not have it.*repagent resolve a/);
    await resolveFor(pair, 'replica');
    expect((await volumeOf(pair.hub))?.state).toBe('failed');
    await becomesEqual(pair);
  });

  test('a replica that was replaced by another image', async () => {
    const pair = await settled();
    fs.writeFileSync(`${pair.replica}.other`, randomBytes(SIZE));
    fs.renameSync(`${pair.replica}.other`, pair.replica);
    await refusedFor(pair, /replaced by another one/);
    await becomesEqual(pair);
  });

  test('a second agent that claims the volume', async () => {
    const pair = await settled();
    await refusedFor(pair, /belongs to another agent/, 'other-agent-state');
    await becomesEqual(pair);
  });

  test('a hub that was restored from an older copy', async () => {
    const pair = await settled();
    fs.cpSync(dir.file('hub-state'), dir.file('hub-state-old'), { recursive: true });
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    await pair.agent.stop();
    await pair.hub.stop();
    fs.cpSync(dir.file('hub-state-old'), dir.file('hub-state'), { recursive: true });
    await refusedFor(pair, /has forgotten what it had confirmed|changed while the hub did not have it/);
    await becomesEqual(pair);
  });

  test("an agent's state that was restored from an older copy", async () => {
    const pair = await settled();
    fs.cpSync(dir.file('agent-state'), dir.file('agent-state-old'), { recursive: true });
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    await pair.agent.stop();
    await pair.hub.stop();
    fs.cpSync(dir.file('agent-state-old'), dir.file('agent-state'), { recursive: true });
    await refusedFor(pair, /the agent has forgotten what it had confirmed/);
    await becomesEqual(pair);
  });

  test('a new empty image needs no choice, nor does a lost map of the same agent', async () => {
    const pair = await settled();
    fs.rmSync(pair.replica);
    fs.writeFileSync(pair.replica, '');
    fs.truncateSync(pair.replica, SIZE);
    fs.rmSync(dir.file('agent-state/maps'), { recursive: true });
    await pair.startHub();
    await pair.startAgent();
    await pair.protected();
    pair.expectEqual();
  });

  test('two agents never share a state directory', async () => {
    const pair = await settled();
    await pair.startHub();
    await pair.startAgent();
    fs.writeFileSync(dir.file('b.img'), randomBytes(MIB));
    const { code, stderr } = await runCli([
      'serve',
      dir.file('b.img'),
      '--listen',
      '127.0.0.1:0',
      '--hub',
      `127.0.0.1:${pair.hubPort}`,
      '--state-dir',
      dir.file('agent-state'),
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/another agent uses this state directory/);
  });
});
