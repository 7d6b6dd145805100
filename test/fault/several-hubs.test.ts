// Two hubs as processes, each with a replica of one disk: what is done to one of them, neither the guest nor the other
// hub notices, and both replicas are the disk in the end, over kills, moves and starts without one of them.
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { sleep } from '../../src/base/sleep.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { HubVolumeStatus } from '../../src/control/status.ts';
import { type CliProcess, runCli, startHub, startServe } from '../support/cli.ts';
import { runPeerOk } from '../support/peers.ts';
import { readStats, readStatus, waitProtected, waitReached } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
const SIZE = 48 * KIB * KIB;
const CHUNK = 64 * KIB;
const BLOCK = 4 * KIB;
const NAMES = ['near', 'far'] as const;
type Name = (typeof NAMES)[number];

/** Where the bits of a map's file begin, and how many of them are set is how much it says is missing. */
const BITS_OFFSET = 8192;

/** Between two looks at the lag. */
const LOOK_EVERY_MS = 100;

/** How much longer than without it something may take while a hub is dead, ms. */
const MAX_MORE_MS = 100;

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

/** The agent and its hubs, at the same places through all their lives. */
class Trio {
  readonly hubs = {} as Record<Name, CliProcess>;
  readonly ports: Record<Name, number> = { near: 0, far: 0 };
  agent!: CliProcess;

  static async start(): Promise<Trio> {
    const trio = new Trio();
    for (const name of NAMES) await trio.startHub(name);
    await trio.startAgent();
    await waitProtected(trio.agent);
    return trio;
  }

  /** @param moves to another port */
  async startHub(name: Name, moves = false): Promise<void> {
    const started = await startHub([
      ...['--store', dir.file(`${name}-store`), '--state-dir', dir.file(`${name}-state`)],
      ...['--listen', `127.0.0.1:${moves ? 0 : this.ports[name]}`],
    ]);
    undo.push(() => started.kill());
    this.hubs[name] = started;
    this.ports[name] = started.port;
  }

  async startAgent(...names: Name[]): Promise<void> {
    const asked = names.length > 0 ? names : NAMES;
    this.agent = await startServe([
      ...[`a=${dir.file('a.img')}`, '--vm-name', 'vm', '--state-dir', dir.file('agent-state')],
      ...asked.flatMap((name) => ['--hub', `${name}=127.0.0.1:${this.ports[name]}`]),
    ]);
    const started = this.agent;
    undo.push(() => started.kill());
  }

  /** What the agent says of the volume at a hub. */
  async at(name: Name): Promise<HubVolumeStatus> {
    const [volume] = (await readStatus(this.agent)).volumes;
    return volume!.hubs!.find(({ hub }) => hub === name)!;
  }

  /** As `repagent wait --hub near` does. */
  waitForNear(): Promise<void> {
    return waitReached(this.agent, { hub: 'near' });
  }

  /** Bytes that each hub had read from the agent's disk since the agent began. */
  async readBytes(): Promise<Record<Name, number>> {
    const { agent } = (await readStats(this.agent)) as {
      agent: { hubs: Record<Name, { remoteReadBytes: number }> };
    };
    return { near: agent.hubs.near.remoteReadBytes, far: agent.hubs.far.remoteReadBytes };
  }

  /** Writes a block into each of some chunks. */
  async write(first: number, count: number): Promise<void> {
    const guest = await openNbdDevice(this.agent.urls[0]!, { logger: silentLogger });
    for (let chunk = first; chunk < first + count; chunk += 1) {
      await guest.write(chunk * CHUNK + (chunk % 16) * BLOCK, randomBytes(BLOCK), false);
    }
    await guest.close();
  }

  /** Ends all in order, and compares every replica with the disk. */
  async finish(): Promise<void> {
    await waitProtected(this.agent);
    const verified = await runCli(['verify', '--json', '--control', this.agent.control]);
    expect(JSON.parse(verified.stdout)).toMatchObject({
      equal: true,
      volumes: NAMES.map((hub) => ({ volume: 'a', hub, differing: [] })),
    });
    for (const one of [this.agent, this.hubs.near, this.hubs.far]) {
      expect(await one.stop()).toEqual({ code: 0, signal: null });
    }
    for (const name of NAMES) {
      const { stdout } = spawnSync('cmp', [dir.file('a.img'), dir.file(`${name}-store/vm/a`)]);
      expect(stdout.toString(), name).toBe('');
    }
  }
}

interface Figures {
  readonly writes: number;
  /** Of the guest's writes, ms. */
  readonly p99Ms: number;
  readonly medianMs: number;
  /** Of what was seen of the lag at the hub that lives, ms. */
  readonly medianLagMs: number;
}

/** Writes with fio for some seconds, and looks at the hub that is to stay as it is meanwhile. */
async function load(trio: Trio, seconds: number): Promise<Figures> {
  let isOver = false;
  const fio = runPeerOk('fio', [
    ...['--name=job', '--ioengine=nbd', `--uri=${trio.agent.urls[0]!}`, '--output-format=json'],
    ...[
      '--rw=randwrite',
      '--bs=4k',
      '--iodepth=4',
      '--rate_iops=400',
      '--time_based',
      `--runtime=${seconds}`,
    ],
    ...[`--size=${SIZE}`, '--randrepeat=0'],
  ]).finally(() => {
    isOver = true;
  });
  const lags: number[] = [];
  while (!isOver) {
    const { state, lagMs, dirtyBytes } = await trio.at('near');
    expect([state, typeof lagMs], `with ${dirtyBytes} bytes dirty`).toEqual(['protected', 'number']);
    lags.push(lagMs!);
    await sleep(LOOK_EVERY_MS);
  }
  const output = await fio;
  const [job] = (JSON.parse(output.slice(output.indexOf('{'))) as FioReport).jobs;
  expect(job!.error).toBe(0);
  const { clat_ns: latency, total_ios: writes } = job!.write;
  lags.sort((a, b) => a - b);
  return {
    writes,
    p99Ms: latency.percentile['99.000000'] / 1e6,
    medianMs: latency.percentile['50.000000'] / 1e6,
    medianLagMs: lags[Math.floor(lags.length / 2)]!,
  };
}

interface FioReport {
  readonly jobs: ReadonlyArray<{
    readonly error: number;
    readonly write: {
      readonly total_ios: number;
      readonly clat_ns: {
        readonly percentile: { readonly '50.000000': number; readonly '99.000000': number };
      };
    };
  }>;
}

/** Bits that are set in the file of a hub's map. */
function bitsIn(folder: string): number {
  let count = 0;
  for (let byte of fs.readFileSync(dir.file(`agent-state/${folder}/a.map`)).subarray(BITS_OFFSET)) {
    for (; byte > 0; byte = Math.floor(byte / 2)) count += byte % 2;
  }
  return count;
}

/** What a hub has recorded leaves its map, a second or so after it was acknowledged. */
async function nearIsRecorded(): Promise<void> {
  await waitUntil(() => bitsIn('maps') === 0, { what: 'an empty map of the near hub', timeoutMs: 20_000 });
}

describe('two hubs', () => {
  test('one killed under load: neither the guest nor the other hub notices', async () => {
    const trio = await Trio.start();
    const calm = await load(trio, 4);
    await trio.hubs.far.kill();
    const alone = await load(trio, 4);
    expect(await trio.at('far')).toMatchObject({ state: 'degraded' });
    expect((await trio.at('far')).dirtyBytes).toBeGreaterThan(100 * CHUNK);
    await trio.waitForNear();
    await trio.startHub('far');
    const again = await load(trio, 4);
    process.stdout.write(`  ${JSON.stringify({ calm, alone, again })}\n`);
    for (const figures of [alone, again]) {
      expect(figures.writes).toBeGreaterThan(calm.writes / 2);
      expect(figures.medianMs).toBeLessThan(calm.medianMs + MAX_MORE_MS);
      expect(figures.p99Ms).toBeLessThan(calm.p99Ms + MAX_MORE_MS);
      expect(figures.medianLagMs).toBeLessThan(calm.medianLagMs + MAX_MORE_MS);
    }
    await trio.finish();
  }, 120_000);

  test('the agent killed while one is away, which then has moved: each map says what its own hub lacks', async () => {
    const trio = await Trio.start();
    await trio.hubs.far.kill();
    await trio.write(100, 10);
    await trio.waitForNear();
    await nearIsRecorded();
    expect(bitsIn('maps-2')).toBeGreaterThanOrEqual(10);
    await trio.write(300, 5);
    await trio.agent.kill();
    await trio.startHub('far', true);
    await trio.startAgent();
    await waitProtected(trio.agent);
    const read = await trio.readBytes();
    process.stdout.write(`  read again: near ${read.near / CHUNK}, far ${read.far / CHUNK} chunks\n`);
    expect(read.near).toBeLessThanOrEqual(5 * CHUNK);
    expect(read.far).toBeGreaterThanOrEqual(15 * CHUNK);
    expect(read.far).toBeLessThanOrEqual(30 * CHUNK);
    await trio.finish();
  }, 120_000);

  test('one left out of a start: when it comes back all is compared, and what it missed is moved', async () => {
    const trio = await Trio.start();
    await trio.agent.stop();
    await trio.startAgent('near');
    await waitProtected(trio.agent);
    await trio.write(100, 10);
    await nearIsRecorded();
    await trio.agent.stop();
    await trio.startAgent();
    await waitProtected(trio.agent);
    const read = await trio.readBytes();
    expect(read.near).toBeLessThanOrEqual(CHUNK);
    // Compared by 256 KiB.
    expect(read.far).toBeGreaterThanOrEqual(10 * CHUNK);
    expect(read.far).toBeLessThanOrEqual(20 * CHUNK);
    await trio.finish();
  }, 120_000);
});
