// The central rule: at no moment is a difference between the disks unknown to both sides. At each moment both processes
// could end, or the hub's machine, and where every bit is made durable the agent's too. What the two would find then is
// looked at with the code that would look at it: either everything may differ, or nobody goes on, or the agent's map has
// every sector in which its disk and the replica are not the same.
import { Bitmap } from '../../src/base/bitmap.ts';
import { examineSidecar, isBelievable } from '../../src/repagent/sidecar-finding.ts';
import { BITS_OFFSET, newestHead } from '../../src/repagent/sidecar-head.ts';
import { decodeRecord } from '../../src/rephub/replica-record.ts';
import { judge } from '../../src/rephub/verdict.ts';
import type { Claim } from '../../src/repwire/messages.ts';
import type { AgentMachine } from './agent-machine.ts';
import { recordPath } from './hub-machine.ts';
import type { WorldVolume } from './rules.ts';
import { SECTOR } from './sectors.ts';
import type { SimDisk } from './sim-disk.ts';
import type { SimFiles } from './sim-files.ts';
import { lookOf } from './sim-images.ts';
import type { World } from './world.ts';

/** What an agent would go on from. */
interface Found {
  readonly bits: Bitmap;
  readonly claim: Claim;
}

/** What was found of one volume, and of which versions of what is kept. */
interface Look {
  readonly map: readonly unknown[];
  readonly found: readonly Found[];
  records: readonly unknown[];
  /** Those from which the hub would have read only what the map names. */
  recalled: readonly Found[];
  disks: readonly unknown[];
}

/** What the agent would say if it started now, or with other bytes in its map's file. */
export function claimOf({ agents }: World, volume: WorldVolume, bytes?: Buffer): Claim | undefined {
  return find(agents, volume, bytes)?.claim;
}

function find(
  agents: AgentMachine,
  volume: WorldVolume,
  bytes?: Buffer,
  boot = agents.boot,
): Found | undefined {
  const { agentId } = agents;
  const file = agents.maps.get(volume.name)!.view(bytes);
  if (!agentId || !file.existed) return undefined;
  const head = newestHead(file.read(0, BITS_OFFSET));
  const { sizeBytes } = volume.disk;
  const granularityBytes = agents.keeping.granularityBytes!;
  const bits = new Bitmap(Math.ceil(sizeBytes / granularityBytes));
  const finding = examineSidecar(head, bits, {
    file,
    agentId,
    volumeName: volume.name,
    sizeBytes,
    granularityBytes,
    bootId: agents.bootId(boot),
    image: agents.imageMark(volume.disk),
  });
  const isOurs = head !== undefined && finding !== 'foreign' && finding !== 'new';
  const claim: Claim = {
    kind: 'claim',
    volumeId: 0n,
    pairing: isOurs ? head.pairing : 0n,
    generation: isOurs ? head.generation : 0,
    recordedSequence: isOurs ? head.recordedSequence : 0,
    finding,
    isBelieved: isBelievable(finding),
  };
  return { bits, claim };
}

export class CrashRule {
  readonly #world: World;
  readonly #looks = new Map<WorldVolume, Look>();

  constructor(world: World) {
    this.#world = world;
  }

  /** @returns what both sides would never learn, if they ended now */
  hidden(volume: WorldVolume): string | undefined {
    const { agents, hubs, looks } = this.#world;
    if (!agents.isKeeping || !hubs.isKeeping) return undefined;
    const { disk, image } = volume;
    const look = this.#look(volume);
    const disks = [look.recalled, disk.version, image.disk.version];
    if (isSame(disks, look.disks)) return undefined;
    look.disks = disks;
    looks.crashes += look.recalled.length;
    for (const found of look.recalled) {
      const isPowerCut = found !== look.found[0];
      const sector = this.#uncovered(volume, found.bits, isPowerCut);
      if (sector === -1) continue;
      return (
        `sector ${sector} holds ${disk.now[sector]} (durable ${disk.durable[sector]}), in the replica ` +
        `${image.disk.now[sector]} (durable ${image.disk.durable[sector]}), ` +
        `and after ${isPowerCut ? 'a power failure' : 'a crash'} now nobody would know`
      );
    }
    return undefined;
  }

  /** @returns what both sides would never learn, if the hub's machine held this when both go on */
  hiddenFrom(volume: WorldVolume, files: SimFiles, replica: SimDisk): string | undefined {
    const { agents } = this.#world;
    const { agentId } = agents;
    if (!agents.isKeeping || !agentId) return undefined;
    const text = files.peek(recordPath(volume.name));
    const record = text === undefined ? undefined : (decodeRecord(text) ?? 'damaged');
    const image = lookOf(replica);
    for (const found of this.#look(volume).found) {
      if (!found.claim.isBelieved) continue;
      if (judge({ record, image, agentId: agentId.toString('hex'), claim: found.claim }).kind !== 'recall')
        continue;
      const isPowerCut = found !== this.#look(volume).found[0];
      const sector = this.#uncovered(volume, found.bits, isPowerCut, replica);
      if (sector !== -1) return `and nobody would know that sector ${sector} holds ${replica.now[sector]}`;
    }
    return undefined;
  }

  /** Looks anew only at what has changed: most events change nothing that is kept. */
  #look(volume: WorldVolume): Look {
    const { agents, hubs } = this.#world;
    const { disk, image } = volume;
    const map = agents.maps.get(volume.name)!;
    const mapNow = [map.version, agents.boot, agents.files.version, disk.identity, disk.changedAtMs];
    let look = this.#looks.get(volume);
    if (!look || !isSame(look.map, mapNow)) {
      look = { map: mapNow, found: this.#find(volume), records: [], recalled: [], disks: [] };
      this.#looks.set(volume, look);
    }
    // A hub that has the image in its hands doesn't look at it again.
    const isWatched = volume.replica?.memory.image.isWatched === true;
    const recordsNow = [hubs.files.version, isWatched ? undefined : image.disk.version];
    if (!isSame(look.records, recordsNow)) {
      look.records = recordsNow;
      look.recalled = look.found.filter((found) => this.#isRecalled(volume, found));
    }
    return look;
  }

  /** After a crash, and where every bit is made durable also after each kind of power failure. */
  #find(volume: WorldVolume): Found[] {
    const { agents } = this.#world;
    const map = agents.maps.get(volume.name)!;
    const worst = agents.keeping.exact ? map.worst(BITS_OFFSET) : [];
    const nextBoot = agents.boot + 1;
    return [find(agents, volume), ...worst.map((bytes) => find(agents, volume, bytes, nextBoot))].filter(
      (found) => found !== undefined,
    );
  }

  /** Whether one of the records that the hub may find makes it read only what the agent's map names. */
  #isRecalled(volume: WorldVolume, { claim }: Found): boolean {
    if (!claim.isBelieved) return false;
    const { hubs, agents } = this.#world;
    const agentId = agents.agentId!.toString('hex');
    const isWatched = volume.replica?.memory.image.isWatched === true;
    const image = isWatched ? undefined : lookOf(volume.image.disk);
    return hubs
      .recordsOf(volume.name)
      .some((record) => judge({ record, image, agentId, claim }).kind === 'recall');
  }

  /** The first sector in which the two may differ and that the map doesn't have, or -1. */
  #uncovered({ disk, image }: WorldVolume, bits: Bitmap, isPowerCut: boolean, replica = image.disk): number {
    const chunkSectors = this.#world.agents.keeping.granularityBytes! / SECTOR;
    const { now, durable } = disk;
    for (let i = 0; i < now.length; i += 1) {
      const tag = now[i];
      const mayGoBack = isPowerCut || disk.isForgotten(i);
      const isEqual =
        tag === replica.durable[i] && tag === replica.now[i] && (!mayGoBack || tag === durable[i]);
      if (!isEqual && !bits.test(Math.floor(i / chunkSectors))) return i;
    }
    return -1;
  }
}

function isSame(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((one, i) => one === b[i]);
}
