// What people do to machines behind the back of agent and hub: older copies put back, images replaced, disks written to.
// Only what the two promise to find is done here; docs/REPLICATION.md says what they can't.
import type { ReplicaRecord } from '../../src/rephub/replica-record.ts';
import { claimOf } from './crash-rule.ts';
import type { WorldVolume } from './rules.ts';
import type { FilesCopy } from './sim-files.ts';
import type { MapCopy } from './sim-map-file.ts';
import type { World } from './world.ts';

/** Later than this a change of an image shows, ms: signs of life, and records, are at most so old. */
const SHOWS_AFTER_MS = 36_000;

interface DiskCopy {
  readonly tags: Int32Array;
  readonly changedAtMs: number;
}

/** What a machine held at one time. */
export interface MachineCopy {
  readonly files: FilesCopy;
  readonly disks: ReadonlyMap<WorldVolume, DiskCopy>;
  readonly maps: ReadonlyMap<string, MapCopy>;
  /** Which start of the machine that was. */
  readonly life: number;
}

export function copyHub(world: World): MachineCopy {
  const disks = world.volumes.map(({ image: { disk } }, i) => [world.volumes[i]!, copyDisk(disk)] as const);
  return { files: world.hubs.files.copy(), disks: new Map(disks), maps: new Map(), life: 0 };
}

export function copyAgent(world: World): MachineCopy {
  const { files, maps, life } = world.agents;
  const disks = world.volumes.map((volume) => [volume, copyDisk(volume.disk)] as const);
  const copies = [...maps].filter(([, map]) => map.exists).map(([name, map]) => [name, map.copy()] as const);
  return { files: files.copy(), disks: new Map(disks), maps: new Map(copies), life };
}

function copyDisk({ now, changedAtMs }: { now: Int32Array; changedAtMs: number }): DiskCopy {
  return { tags: now.slice(), changedAtMs };
}

/** While no hub runs: another image is in the place, or the same one with other content. */
export function replaceImage(
  world: World,
  volume: WorldVolume,
  tags: Int32Array,
  kind: 'other' | 'written',
): void {
  if (world.hubHost.isAlive) throw new Error('only while no hub runs');
  const { disk } = volume.image;
  if (kind === 'other') disk.identity += 1;
  else if (world.hubs.isKeeping) world.pass(SHOWS_AFTER_MS);
  if (world.wrong !== undefined) return;
  disk.replace(tags, world.clock.wallMsOf(world.hubHost));
  world.imageReplaced(volume);
  // By a clock that was set back it may have been written before the hub had it last.
  const shows = kind === 'other' || !world.memory.clocksJumped;
  const isRecorded = recordsOf(world, volume).length > 0;
  world.memory.tampered(volume, 'the image was replaced', shows && isRecorded ? 'image' : undefined);
}

/** While the hub has lost the image, another one comes into its place. */
export function swapImage(world: World, volume: WorldVolume, tags: Int32Array): void {
  const { disk, isOpen } = volume.image;
  if (isOpen || volume.replica?.state !== 'failed') return;
  disk.identity += 1;
  disk.replace(tags, world.clock.wallMsOf(world.hubHost));
  world.imageReplaced(volume);
  world.memory.tampered(volume, 'the image was swapped', undefined);
}

/** While no hub runs, its machine is restored: its records, its images, or both. */
export function restoreHub(world: World, copy: MachineCopy, what: 'records' | 'images' | 'all'): void {
  if (world.hubHost.isAlive) throw new Error('only while no hub runs');
  if (!world.hubs.isKeeping) return;
  if (what === 'images' && !world.volumes.every((volume) => isOlder(world, volume, copy))) return;
  if (what !== 'images') world.hubs.files.restore(copy.files);
  for (const volume of world.volumes) {
    const image = copy.disks.get(volume)!;
    if (what !== 'records') {
      volume.image.disk.replace(image.tags, image.changedAtMs);
      world.imageReplaced(volume);
    }
    world.recovers.tampered(volume);
    world.memory.tampered(
      volume,
      `the hub's ${what} are those of before`,
      what === 'images' ? 'image' : isHubBehind(world, volume) ? 'memories' : undefined,
      what === 'all' || recordsOf(world, volume).length === 0,
    );
  }
}

/** While no agent runs, its state is restored, or its whole machine. */
export function restoreAgent(
  world: World,
  copy: MachineCopy,
  what: 'state' | 'all',
  isReboot: boolean,
): void {
  const { agents, hubs } = world;
  if (agents.host.isAlive) throw new Error('only while no agent runs');
  if (!agents.isKeeping || !hubs.isKeeping || copy.maps.size < world.volumes.length) return;
  const conflicts = new Map(world.volumes.map((volume) => [volume, isAgentBehind(world, volume, copy)]));
  const isFound = ([volume, isBehind]: [WorldVolume, boolean]): boolean =>
    isBehind ||
    (what === 'state' && volume.disk.changedAtMs > copy.maps.get(volume.name)!.touchedAtMs + SHOWS_AFTER_MS);
  if (![...conflicts].every(isFound)) return;
  agents.files.restore(copy.files);
  for (const [volume, isBehind] of conflicts) {
    agents.maps.get(volume.name)!.restore(copy.maps.get(volume.name)!);
    const disk = copy.disks.get(volume)!;
    if (what === 'all') {
      volume.disk.replace(disk.tags, disk.changedAtMs);
      volume.isReplaced = true;
    }
    world.memory.tampered(volume, `the agent's ${what} is that of before`, isBehind ? 'memories' : undefined);
  }
  if (isReboot) agents.rebooted();
}

/** While no agent runs, somebody starts a machine from its disk. */
export function writePast(world: World, volume: WorldVolume, first: number, sectors: number): void {
  if (world.agentHost.isAlive) throw new Error('only while no agent runs');
  world.pass(SHOWS_AFTER_MS);
  const tags = volume.disk.now.slice();
  for (let i = first; i < first + sectors; i += 1) tags[i] = world.nextTag();
  volume.disk.replace(tags, world.clock.wallMsOf(world.agentHost));
  world.tell(`the disk of ${volume.name} is changed past the agent`);
  world.memory.excuse(volume, 'changed past the agent');
}

/** What the hub is sure to find one of, if it may not find nothing. */
function recordsOf({ hubs }: World, { name }: WorldVolume): ReplicaRecord[] {
  const records = hubs.recordsOf(name);
  if (records.includes(undefined)) return [];
  return records.filter((record) => record !== undefined && record !== 'damaged');
}

/** The copy of an image shows to be older than the record of it. */
function isOlder(world: World, volume: WorldVolume, copy: MachineCopy): boolean {
  const records = recordsOf(world, volume);
  const atMs = copy.disks.get(volume)!.changedAtMs;
  return (
    records.length > 0 && records.every(({ image }) => image && Number(image.changedAtNs) / 1e6 > atMs + 1)
  );
}

/** The hub has forgotten what the agent remembers of it. */
function isHubBehind(world: World, volume: WorldVolume): boolean {
  const claim = claimOf(world, volume);
  if (!claim || claim.pairing === 0n) return false;
  const records = recordsOf(world, volume);
  return (
    records.length > 0 &&
    records.every(
      ({ pairing, generation, sequence }) =>
        pairing === claim.pairing &&
        (claim.generation > generation ||
          (claim.generation === generation && claim.recordedSequence > sequence)),
    )
  );
}

/** The agent would have forgotten what the hub knows that it had kept. */
function isAgentBehind(world: World, volume: WorldVolume, copy: MachineCopy): boolean {
  const claim = claimOf(world, volume, copy.maps.get(volume.name)!.bytes);
  if (!claim || claim.pairing === 0n) return false;
  const records = recordsOf(world, volume);
  return (
    records.length > 0 &&
    records.every(
      ({ pairing, generation, previousGeneration, isConfirmed, previousSequence }) =>
        pairing === claim.pairing &&
        (claim.generation < generation
          ? isConfirmed || claim.generation !== previousGeneration
          : claim.generation === generation && claim.recordedSequence < previousSequence),
    )
  );
}
