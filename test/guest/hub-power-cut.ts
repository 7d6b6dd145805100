// The hub's machine loses its power: whatever the hub had called durable is on its disk, at every moment at which the
// power could have failed; when it is back only what the map names is read, and the replica is the disk again.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { decodeRecord } from '../../src/rephub/replica-record.ts';
import { type CliProcess, startServe } from '../support/cli.ts';
import { CutProxy } from '../support/cut-proxy.ts';
import { countNamed } from '../support/mirror-pair.ts';
import { RawNbdClient } from '../support/raw-nbd-client.ts';
import { makeFolder, remoteReadBytes } from '../support/rig.ts';
import { TaggedDisk } from '../support/tagged-disk.ts';
import { waitUntil } from '../support/wait-until.ts';
import { RecoveredFiles, takeCrashImages } from './crash-images.ts';
import { volumeOf } from './database-witness.ts';
import { LISTEN, PoweredHost, type Writeback } from './powered-host.ts';
import { TaggedLoad } from './tagged-load.ts';

const VOLUME_BYTES = 8 * MiB;
const CHUNK_BYTES = 64 * KiB;
const HUB_DISK_BYTES = 24 * MiB;
const HUB = [
  ...['hub', '--store', '/data/store', '--state-dir', '/data/state'],
  ...['--log-level', 'warn', ...LISTEN],
];
const REPLICA = '/store/vm/disk';
const RECORD = `${REPLICA}%record`;
const CRASH_IMAGES = 8;

/** Changes that the hub has not called durable. */
const MOST_UNACKED = 60;

/** How the machine's kernel writes, and what the hub is at when its power fails. */
const CUTS: ReadonlyArray<{ readonly writeback: Writeback; readonly during: VolumeStatus['state'] }> = [
  { writeback: 'lazy', during: 'protected' },
  { writeback: 'eager', during: 'resync' },
];

/** Which write was the newest at which sequence of the stream. */
class Positions {
  readonly #known: Array<{ readonly sequence: number; readonly writes: number }> = [];
  /** The newest sequence that the hub called durable while it called the replica whole. */
  claimed = 0;

  /** @param writes that were answered before the agent said `volume` */
  note(volume: VolumeStatus, writes: number): void {
    if (volume.state !== 'protected') return;
    this.#known.push({ sequence: volume.sequence, writes });
    this.claimed = Math.max(this.claimed, volume.ackedSequence);
  }

  /** The writes that a replica has which is whole up to `sequence`. */
  writesUpTo(sequence: number): number {
    return this.#known.findLast((one) => one.sequence <= sequence)?.writes ?? 0;
  }
}

async function reach(agent: CliProcess, what: string, is: (volume: VolumeStatus) => boolean): Promise<void> {
  await waitUntil(async () => is(await volumeOf(agent)), { what, timeoutMs: 120_000, intervalMs: 20 });
}

/** @param programs what buildComputer made */
export async function cutPowerOfHub(programs: string, random: () => number): Promise<void> {
  using folder = makeFolder();
  const image = join(folder.path, 'disk.img');
  const disk = new TaggedDisk(VOLUME_BYTES);
  writeFileSync(image, disk.next(0, disk.blocks));

  await using host = await PoweredHost.make(folder.path, programs, HUB_DISK_BYTES);
  await using proxy = await CutProxy.listen(0);
  proxy.hold();
  await using agent = await startServe([
    ...[`disk=${image}`, '--vm-name', 'vm', '--hub', `127.0.0.1:${proxy.port}`],
    ...['--state-dir', join(folder.path, 'agent-state')],
  ]);
  const namedBytes = (): number => {
    const map = readFileSync(join(folder.path, 'agent-state/maps/disk.map'));
    return countNamed(map, VOLUME_BYTES / CHUNK_BYTES) * CHUNK_BYTES;
  };
  const client = await RawNbdClient.open({ host: agent.host, port: agent.port }, 'disk');
  const load = new TaggedLoad(client, disk, random);
  const positions = new Positions();
  let isCut = true;
  /** Never far ahead of an emulated hub: the queue would overflow. */
  const work = async (): Promise<void> => {
    await load.batch();
    await waitUntil(
      async () => {
        const volume = await volumeOf(agent);
        positions.note(volume, disk.count);
        const unacked = volume.sequence - volume.ackedSequence;
        return isCut || volume.state === 'degraded' || unacked <= MOST_UNACKED;
      },
      { what: 'the hub to keep up', timeoutMs: 30_000, intervalMs: 5 },
    );
  };

  for (const { writeback, during } of CUTS) {
    proxy.letThrough(await host.powerOn(writeback, HUB));
    isCut = false;
    if (during === 'protected') {
      await reach(agent, 'the volume to be protected', ({ state }) => state === 'protected');
      await reach(agent, 'the hub to have recorded that', () => namedBytes() === 0);
      while (positions.claimed === 0) await work();
    }
    const images = takeCrashImages(
      host.disk,
      { most: CRASH_IMAGES, every: 12, random },
      () => positions.claimed,
    );
    if (during === 'protected') while (images.length < CRASH_IMAGES) await work();
    else await reach(agent, 'the resync', ({ state }) => state !== 'degraded');
    const cutting = host.powerCutAfter(Math.ceil(random() * 40), random).then(() => {
      isCut = true;
    });
    proxy.hold();
    while (!isCut) await work();
    await cutting;
    const cut = { medium: host.disk.flushed, promised: positions.claimed };
    for (let i = 0; i < 20; i += 1) await load.batch();
    let promises = 0;
    for (const { medium, promised } of [...images, cut]) {
      if (await holdsPromise(medium, promised, positions, disk, folder.path)) promises += 1;
    }
    process.stdout.write(
      `  ${during} hub: ${promises} of ${images.length + 1} disks without power had to hold something\n`,
    );
    expect(promises).toBe(images.length + 1);
  }

  const named = namedBytes();
  expect(named, 'half of the disk was never written again').toBeLessThanOrEqual(VOLUME_BYTES / 2);
  const readBefore = await remoteReadBytes(agent);
  proxy.letThrough(await host.powerOn('lazy', HUB));
  await reach(agent, 'everything to be durable', (volume) => {
    return volume.state === 'protected' && volume.sequence === volume.ackedSequence;
  });
  const readBytes = (await remoteReadBytes(agent)) - readBefore;
  const last = (await volumeOf(agent)).resyncs?.[0];
  expect(last).toMatchObject({ reason: 'hub-restart', outcome: 'done', comparedBytes: 0 });
  process.stdout.write(`  the hub read ${readBytes / KiB} KiB of ${named / KiB} KiB in the map\n`);
  expect(readBytes).toBeGreaterThan(0);
  expect(readBytes).toBeLessThanOrEqual(named);
  const medium = host.disk.flushed; // not a sector that was not flushed
  await host.powerCut(random);
  const files = await RecoveredFiles.open(medium, folder.path);
  const replica = (await files.read(REPLICA))!;
  expect(disk.problems(replica, disk.count)).toEqual([]);
  expect(replica.equals(readFileSync(image))).toBe(true);
  await client.destroy();
}

/**
 * Neither what the agent was told nor what the hub itself has recorded says more than there is.
 * @returns whether they said anything
 */
async function holdsPromise(
  medium: Buffer,
  claimed: number,
  positions: Positions,
  disk: TaggedDisk,
  scratch: string,
): Promise<boolean> {
  const files = await RecoveredFiles.open(medium, scratch);
  const [replica, record] = [await files.read(REPLICA), await files.read(RECORD)];
  const recorded = record ? decodeRecord(record.toString('utf8')) : undefined;
  if (record) expect(recorded, 'a record that is there is whole').toBeDefined();
  const least = Math.max(claimed, recorded?.isComplete ? recorded.sequence : 0);
  if (least === 0) return false;
  expect(disk.problems(replica ?? Buffer.alloc(0), positions.writesUpTo(least))).toEqual([]);
  return true;
}
