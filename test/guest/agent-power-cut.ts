// The agent's machine loses its power: what guests had flushed is on its disk, and what differs from the replica is found,
// by digests or by a map that is exact, so that the replica becomes the disk again, whichever of the two was ahead.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { newestHead } from '../../src/repagent/sidecar-head.ts';
import { type CliProcess, startHub } from '../support/cli.ts';
import { isNamed } from '../support/mirror-pair.ts';
import { RawNbdClient } from '../support/raw-nbd-client.ts';
import { makeFolder } from '../support/rig.ts';
import { TaggedDisk } from '../support/tagged-disk.ts';
import { waitUntil } from '../support/wait-until.ts';
import { RecoveredFiles, takeCrashImages } from './crash-images.ts';
import { volumeOf } from './database-witness.ts';
import { HOST_ADDRESS, LISTEN, PoweredHost, type Writeback } from './powered-host.ts';
import { TaggedLoad } from './tagged-load.ts';

const VOLUME_BYTES = 8 * MiB;
const AGENT_DISK_BYTES = 24 * MiB;
const CRASH_IMAGES = 6;
const READ = 0;

/** How the machine's kernel writes, and how the agent keeps its map; the next start says what that was worth. */
const LIVES: ReadonlyArray<{ readonly writeback: Writeback; readonly sync: 'lazy' | 'always' }> = [
  { writeback: 'eager', sync: 'lazy' },
  { writeback: 'lazy', sync: 'always' },
];

interface Promised {
  /** Writes that a flush had covered. */
  readonly flushed: number;
  /** The hub's image at that moment. */
  readonly replica: Buffer;
}

async function settled(hub: CliProcess): Promise<VolumeStatus> {
  return waitUntil(
    async () => {
      const volume = await volumeOf(hub).catch(() => undefined);
      return volume?.state === 'protected' && volume.sequence === volume.ackedSequence ? volume : undefined;
    },
    { what: 'the replica to be whole', timeoutMs: 60_000, intervalMs: 20 },
  );
}

async function readAll(client: RawNbdClient): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let offset = 0; offset < VOLUME_BYTES; offset += MiB) {
    const { error, data } = await client.request({ type: READ, offset, length: MiB });
    expect(error).toBe(0);
    pieces.push(data);
  }
  return Buffer.concat(pieces);
}

/** @param programs what buildComputer made */
export async function cutPowerOfAgent(programs: string, random: () => number): Promise<void> {
  using folder = makeFolder();
  const replica = join(folder.path, 'store/vm/disk');
  await using hub = await startHub(['--store', join(folder.path, 'store')]);
  await using host = await PoweredHost.make(folder.path, programs, AGENT_DISK_BYTES);
  const disk = new TaggedDisk(VOLUME_BYTES);
  let flushed = 0;
  let before: 'lazy' | 'always' | undefined;

  /** Starts it, waits until the replica is whole, and compares. */
  async function live(writeback: Writeback, sync: 'lazy' | 'always'): Promise<RawNbdClient> {
    const port = await host.powerOn(writeback, [
      ...['serve', 'disk=/data/disk.img', '--create', String(VOLUME_BYTES), '--vm-name', 'vm'],
      ...['--hub', `${HOST_ADDRESS}:${hub.port}`, '--state-dir', '/data/state', '--dirty-sync', sync],
      ...['--log-level', 'warn', ...LISTEN],
    ]);
    const client = await RawNbdClient.open({ host: '127.0.0.1', port }, 'disk');
    const status = await settled(hub);
    const content = await readAll(client);
    expect(disk.problems(content, flushed)).toEqual([]);
    expect(content.equals(readFileSync(replica)), 'disk and replica are equal').toBe(true);
    expectCause(status, before);
    return client;
  }

  for (const { writeback, sync } of LIVES) {
    const client = await live(writeback, sync);
    const load = new TaggedLoad(client, disk, random);
    if (before === undefined) await load.fill();
    await load.flush();
    const images = takeCrashImages<Promised>(host.disk, { most: CRASH_IMAGES, every: 20, random }, () => {
      return { flushed: load.flushed, replica: readFileSync(replica) };
    });
    while (images.length < CRASH_IMAGES) await load.batch();
    const cut = { isDone: false };
    const cutting = host.powerCutAfter(Math.ceil(random() * 40), random).then(() => {
      cut.isDone = true;
    });
    await workUntilGone(load, cut);
    await cutting;
    flushed = load.flushed;
    before = sync;
    disk.lostPower(flushed);
    for (const { medium, promised } of images) {
      await expectPromise(medium, promised, sync === 'always', disk, folder.path);
    }
  }
  await (await live('lazy', 'lazy')).destroy();
}

/** The disk of the clients goes away under them. */
async function workUntilGone(load: TaggedLoad, cut: { readonly isDone: boolean }): Promise<void> {
  try {
    for (;;) await load.batch();
  } catch (error) {
    await waitUntil(() => cut.isDone, { what: `the power cut, not ${String(error)}` });
  }
}

/** After a power cut all is compared, unless the map is exact: then only what it names is read. */
function expectCause(status: VolumeStatus, before: 'lazy' | 'always' | undefined): void {
  const last = status.resyncs?.[0];
  if (before === undefined) {
    expect(last?.reason).toBe('start');
    return;
  }
  expect(last).toMatchObject({ reason: 'host-crash', outcome: 'done' });
  expect(last?.comparedBytes).toBe(before === 'lazy' ? VOLUME_BYTES : 0);
  expect(last?.readBytes).toBeLessThanOrEqual(VOLUME_BYTES / 2);
}

/** What was flushed is there; and where disk and replica differ, an exact map says so. */
async function expectPromise(
  medium: Buffer,
  { flushed, replica }: Promised,
  isExact: boolean,
  disk: TaggedDisk,
  scratch: string,
): Promise<void> {
  const files = await RecoveredFiles.open(medium, scratch);
  const image = (await files.read('/disk.img'))!;
  expect(disk.problems(image, flushed)).toEqual([]);
  if (!isExact) return;
  const map = (await files.read('/state/maps/disk.map'))!;
  const head = newestHead(map)!;
  expect(head).toMatchObject({ isExact: true, isVoid: false });
  const unnamed: number[] = [];
  const chunks = VOLUME_BYTES / head.granularityBytes;
  for (let chunk = 0; chunk < chunks; chunk += 1) {
    const [from, to] = [chunk * head.granularityBytes, (chunk + 1) * head.granularityBytes];
    if (!isNamed(map, chunk) && !image.subarray(from, to).equals(replica.subarray(from, to)))
      unnamed.push(chunk);
  }
  expect(unnamed, 'chunks that differ and are not in the map').toEqual([]);
}
