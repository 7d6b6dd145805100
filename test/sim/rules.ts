// The rules of replication, each as a look at one volume from outside: what its disks hold, and what agent and hub say of
// it. A rule answers what is wrong, or undefined.
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import type { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import type { Replica } from '../../src/rephub/replica.ts';
import { SECTOR } from './sectors.ts';
import type { SimDisk } from './sim-disk.ts';
import type { SimImage } from './sim-images.ts';
import { VolumeTruth } from './truth.ts';

export interface WorldVolume {
  readonly name: string;
  readonly disk: SimDisk;
  readonly image: SimImage;
  /** What guests use, in the present life of the agent. */
  guest: BlockDevice | undefined;
  /** As the agent and the hub have it. */
  agents: ProtectedVolume | undefined;
  replica: Replica | undefined;
  /** Of the present life of the agent, and of all of its lives. */
  truth: VolumeTruth;
  readonly truths: VolumeTruth[];
  /** Requests of guests that have no answer. */
  waiting: number;
  /** Failures that guests saw in this life. */
  failures: number;
  /** The image is not what the hub left there: what follows is right only once an agent has begun anew. */
  isReplaced: boolean;
  /** The replica follows this life of the agent. */
  isFollowed: boolean;
  /** The replica's state as it was told last. */
  seen: string;
  /** What was looked at last: that is not looked at again. */
  readonly looked: { prefix: Look; acked: Look };
}

/** What was looked at: a position in one life of the agent, and a version of the image. */
interface Look {
  readonly truth: VolumeTruth | undefined;
  readonly sequence: number;
  readonly version: number;
}

const NEVER: Look = { truth: undefined, sequence: 0, version: 0 };

function isSame(a: Look, b: Look): boolean {
  return a.truth === b.truth && a.sequence === b.sequence && a.version === b.version;
}

/** How often each rule was looked at. */
export interface Looks {
  prefix: number;
  acks: number;
  silent: number;
  /** For what a crash would hide. */
  crashes: number;
}

export function newVolume(name: string, disk: SimDisk, image: SimImage): WorldVolume {
  const truth = new VolumeTruth(disk);
  return {
    name,
    disk,
    image,
    guest: undefined,
    agents: undefined,
    replica: undefined,
    truth,
    truths: [],
    waiting: 0,
    failures: 0,
    isReplaced: false,
    isFollowed: false,
    seen: '',
    looked: { prefix: NEVER, acked: NEVER },
  };
}

/** Nobody uses a disk or an image as their contracts forbid. */
export function contractBroken({ disk, image }: WorldVolume): string | undefined {
  return disk.violations[0] ?? image.violations[0] ?? image.disk.violations[0];
}

/** Guests wait for their disk only. @param isSyncing they asked for bits that are durable before their data */
export function guestDelayed({ waiting, disk }: WorldVolume, isSyncing: boolean): string | undefined {
  if (waiting === 0 || !disk.isIdle || isSyncing) return undefined;
  return `${waiting} guests wait for something else than their disk`;
}

/** Where the disk and what is durable of the replica differ, the agent's map is dirty. */
export function silentDifference(volume: WorldVolume, looks: Looks): string | undefined {
  const { disk, image, agents } = volume;
  if (!agents || volume.isReplaced) return undefined;
  looks.silent += 1;
  const chunkSectors = agents.map.granularityBytes / SECTOR;
  const { now } = disk;
  const { durable } = image.disk;
  for (let i = 0; i < now.length; i += 1) {
    if (now[i] === durable[i]) continue;
    const from = Math.floor(i / chunkSectors) * chunkSectors;
    if (!agents.map.isDirty(from * SECTOR, chunkSectors * SECTOR)) {
      return `sector ${i} differs (${now[i]}, replica ${durable[i]}), and nobody knows`;
    }
    i = from + chunkSectors - 1;
  }
}

/** A replica that is protected is the disk at the position that it names. */
export function notAPrefix(volume: WorldVolume, looks: Looks): string | undefined {
  const { replica, truth, image, looked } = volume;
  if (replica?.state !== 'protected' || !volume.isFollowed || volume.isReplaced) return undefined;
  // Between two positions; or the next one waits for the record, which is too old for it, or for what it overwrites to be kept.
  if (image.isAppending || !replica.content.isIdle) return undefined;
  const sequence = replica.receivedSequence;
  const { version, now } = image.disk;
  const look = { truth, sequence, version };
  if (isSame(look, looked.prefix)) return undefined;
  looked.prefix = look;
  looks.prefix += 1;
  const sector = truth.differsAt(sequence, now);
  if (sector === -1) return undefined;
  return `protected at ${sequence}, but sector ${sector} holds ${now[sector]}, not ${truth.pastTag(sector)}`;
}

/** What a replica had to read is durable before it calls itself protected. */
export function settledEarly({ replica, isFollowed }: WorldVolume): string | undefined {
  if (replica?.state !== 'protected' || !isFollowed) return undefined;
  const { ackedSequence, engine } = replica;
  if (ackedSequence >= engine.targetSequence) return undefined;
  return `protected at ${ackedSequence}, but what it read, as of ${engine.targetSequence}, is not durable`;
}

/** What was acknowledged is durable, or something newer in its place. */
export function ackedLost(
  volume: WorldVolume,
  isAgentAlive: boolean,
  isHubAlive: boolean,
  looks: Looks,
): string | undefined {
  const { replica, truth, agents, image, looked } = volume;
  if (!volume.isFollowed || volume.isReplaced) return undefined;
  if (isAgentAlive && agents) truth.acked(agents.health.ackedSequence);
  if (isAgentAlive && isHubAlive && replica?.link) truth.acked(replica.ackedSequence);
  const { version, durable } = image.disk;
  const look = { truth, sequence: truth.ackedSequence, version };
  if (isSame(look, looked.acked)) return undefined;
  looked.acked = look;
  looks.acks += 1;
  const sector = truth.lostAcked(image.disk);
  if (sector === -1) return undefined;
  return `${truth.ackedSequence} is acknowledged, but durable sector ${sector} holds ${durable[sector]}`;
}
