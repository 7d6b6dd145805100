// Disks that are full: the hub's, that of its records, that of the agent's map. Guests never notice, the reason is told,
// nothing is read that did not change, and once there is room all of it heals by itself.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { type CliProcess, startServe } from '../support/cli.ts';
import { type AgentCounts, MirrorPair, type MirrorPairOptions, volumeAt } from '../support/mirror-pair.ts';
import { makeImage } from '../support/rig.ts';
import { canMount, SmallDisk } from '../support/small-disk.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const CHUNK = 64 * KiB;
const SIZE = 64 * MiB;
const CHUNKS = SIZE / CHUNK;
/** The rest of the disk are holes, and of the replica too. */
const DATA = 8 * MiB;
/** What the hub may read in vain when it tries whether there is room again, and there is not: 8 reads of 256 KiB. */
const ATTEMPT = 2 * MiB;
/** The first chunk of the holes. */
const HOLES = DATA / CHUNK;

/** What one test has: a folder with a disk, a small disk, a pair. All of it is gone when the test has ended. */
class Stage implements AsyncDisposable {
  readonly dir: TempDir = tempDir();
  readonly #used: Array<Disposable | AsyncDisposable> = [];

  constructor() {
    makeImage(this.dir.file('a.img'), SIZE, [[0, DATA / MiB]]);
  }

  smallDisk(sizeBytes: number): SmallDisk {
    const folder = this.dir.file('small');
    fs.mkdirSync(folder);
    const disk = new SmallDisk(folder, sizeBytes);
    this.#used.push(disk);
    return disk;
  }

  /** Both processes run, the volume is protected, and the map's file is empty. */
  async startPair(options: Partial<MirrorPairOptions>): Promise<MirrorPair> {
    const pair = new MirrorPair({ folder: this.dir.path, sizeBytes: SIZE, ...options });
    this.#used.push(pair);
    await pair.start();
    await pair.recorded(CHUNKS);
    return pair;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#used.reverse()) {
      if (Symbol.asyncDispose in one) await one[Symbol.asyncDispose]();
      else one[Symbol.dispose]();
    }
    this.dir.remove();
  }
}

async function guestOf(pair: MirrorPair): Promise<BlockDevice> {
  return openNbdDevice(pair.uri, { logger: silentLogger });
}

/** Writes one block into each of `count` chunks. @throws Error when the guest's disk says no */
async function write(guest: BlockDevice, first: number, count: number): Promise<void> {
  for (let chunk = first; chunk < first + count; chunk += 1) {
    await guest.write(chunk * CHUNK + (chunk % 16) * 4 * KiB, randomBytes(4 * KiB), false);
  }
  await guest.flush();
}

async function untilFailed(process: CliProcess, reason: RegExp): Promise<VolumeStatus> {
  return waitUntil(
    async () => {
      const volume = await volumeAt(process);
      return volume?.state === 'failed' && reason.test(volume.lastError ?? '') ? volume : undefined;
    },
    { what: `a failure that names ${reason}`, timeoutMs: 40_000, intervalMs: 50 },
  );
}

/** Gives the disk room: all of it heals by that alone. @returns bytes that were read since `before` */
async function heal(pair: MirrorPair, small: SmallDisk, before: AgentCounts): Promise<number> {
  small.makeRoom();
  await pair.expectEqual();
  return (await pair.counts()).readBytes - before.readBytes;
}

function tell(what: string, readBytes: number, chunks: number): void {
  process.stdout.write(
    `  ${what}: re-read ${readBytes / KiB} KiB of ${SIZE / KiB}, written in ${chunks} chunks of 64 KiB\n`,
  );
}

if (!canMount) process.stdout.write('  SKIPPED, full disks: only root may mount a small one\n');

describe.skipIf(!canMount)("the hub's disk", { concurrent: true, timeout: 240_000 }, () => {
  test('full while it follows: failed, named, and healed by room alone', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(24 * MiB);
    const pair = await stage.startPair({ store: small.path });
    small.fill();
    const guest = await guestOf(pair);
    await write(guest, HOLES, 100);
    await untilFailed(pair.hub, /ENOSPC|no space/i);
    const told = await untilFailed(pair.agent, /./);
    expect(told.lagMs, 'what the hub lacks has an age').not.toBe(0);
    expect(told.dirtyBytes).toBeGreaterThan(0);
    await write(guest, HOLES + 300, 50);
    await guest.close();
    const before = await pair.counts();
    const readBytes = await heal(pair, small, before);
    tell("the hub's disk was full", readBytes, 150);
    expect(readBytes).toBeGreaterThan(0);
    expect(readBytes).toBeLessThanOrEqual(150 * CHUNK + ATTEMPT);
  });

  test('still full at the start of another hub: refused, named, and healed by room alone', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(24 * MiB);
    const pair = await stage.startPair({ store: small.path });
    small.fill();
    const guest = await guestOf(pair);
    await write(guest, HOLES, 100);
    await untilFailed(pair.hub, /ENOSPC|no space/i);
    await pair.hub.kill();
    await write(guest, HOLES + 300, 50);
    await guest.close();
    await pair.startHub();
    await untilFailed(pair.agent, /ENOSPC|no space/i);
    await untilFailed(pair.hub, /ENOSPC|no space/i);
    const before = await pair.counts();
    const readBytes = await heal(pair, small, before);
    tell("the hub's disk was full at its start", readBytes, 150);
    expect(readBytes).toBeLessThanOrEqual(150 * CHUNK + ATTEMPT);
  });

  test('of its records full: the map keeps what it can not record', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(MiB);
    const pair = await stage.startPair({ hubState: small.path });
    const before = await pair.counts();
    small.fill();
    const guest = await guestOf(pair);
    await write(guest, 10, 60);
    await guest.close();
    await waitUntil(() => pair.hub.logs().includes('the record of the replica could not be written'), {
      what: 'a record that can not be written',
    });
    await pair.expectEqual('the stream goes on');
    expect(pair.namedChunks(CHUNKS)).toBeGreaterThanOrEqual(60);
    await pair.hub.kill();
    await pair.startHub();
    await untilFailed(pair.agent, /record of a replica can't be kept.*ENOSPC/);
    const readBytes = await heal(pair, small, before);
    tell("the disk of the hub's records was full", readBytes, 60);
    expect(readBytes, pair.logs()).toBe(60 * CHUNK);
  });
});

describe.skipIf(!canMount)("the disk of the agent's state", { concurrent: true, timeout: 240_000 }, () => {
  test('full while it runs: nothing is lost, and a kill costs what changed', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(MiB);
    const pair = await stage.startPair({ agentState: small.path });
    small.fill();
    await pair.hub.kill();
    const guest = await guestOf(pair);
    await write(guest, 100, 40);
    await guest.close();
    expect((await volumeAt(pair.agent))?.lastError ?? '').not.toMatch(/map/);
    await pair.agent.kill();
    await pair.start();
    await pair.expectEqual();
    const { readBytes } = await pair.counts();
    tell("the disk of the agent's state was full", readBytes, 40);
    expect(readBytes).toBe(40 * CHUNK);
  });

  test('too full for a map: said, replicated all the same, and compared after a kill', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(MiB);
    const pair = await stage.startPair({ agentState: small.path });
    expect(await pair.agent.stop()).toEqual({ code: 0, signal: null });
    fs.rmSync(pair.mapFile);
    // Room for one half of its head, not for its bits.
    small.fill(1);
    await pair.startAgent();
    expect((await volumeAt(pair.agent))?.lastError).toMatch(/map.*ENOSPC/);
    await pair.settled();
    const guest = await guestOf(pair);
    await write(guest, 200, 30);
    await pair.expectEqual();
    await pair.hub.kill();
    await write(guest, 400, 20);
    await guest.close();
    await pair.agent.kill();
    small.makeRoom();
    await pair.start();
    await pair.expectEqual();
    const { readBytes } = await pair.counts();
    tell('there was no room for a map', readBytes, 20);
    expect(readBytes).toBeGreaterThanOrEqual(20 * CHUNK);
    // Neighbours are compared by 256 KiB and read as a whole.
    expect(readBytes).toBeLessThanOrEqual(20 * CHUNK + 2 * 256 * KiB);
  });

  test('too full for anything: the agent does not start, and says what to do', async () => {
    await using stage = new Stage();
    const small = stage.smallDisk(MiB);
    small.fill();
    const started = startServe([
      ...[stage.dir.file('a.img'), '--hub', '127.0.0.1:1'],
      ...['--state-dir', small.path],
    ]);
    await expect(started).rejects.toThrow(/ended \(code 1\).*(ENOSPC|no space)/is);
  });
});
