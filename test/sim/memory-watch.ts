// What agent and hub make of what each kept: whether they go on from it whenever they can, read no more then than the map
// names, and refuse to go on when the two stories don't fit together, and only then.
import { BITS_OFFSET } from '../../src/repagent/sidecar-head.ts';
import type { Replica } from '../../src/rephub/replica.ts';
import type { Beginning } from '../../src/rephub/replica-memory.ts';
import type { Claim } from '../../src/repwire/messages.ts';
import type { WorldVolume } from './rules.ts';
import { SECTOR } from './sectors.ts';
import type { World } from './world.ts';

/** How often attachments began in which way. */
export interface Beginnings {
  recall: number;
  exact: number;
  compare: number;
  new: number;
  refused: number;
}

/** What shows that something was tampered with: the image itself, or what both sides remember of each other. */
export type Evidence = 'image' | 'memories';

interface Conflict {
  readonly why: string;
  readonly shownBy: Evidence;
}

export class MemoryWatch {
  readonly begun: Beginnings = { recall: 0, exact: 0, compare: 0, new: 0, refused: 0 };
  readonly #world: World;
  /** Why more may be read than the map names, until an agent has begun. */
  readonly #excuses = new Map<WorldVolume, Set<string>>();
  /** Why an agent may be refused, and why it has to be, until somebody has chosen. */
  readonly #suspicions = new Map<WorldVolume, string>();
  readonly #conflicts = new Map<WorldVolume, Conflict>();
  readonly #refused = new Set<WorldVolume>();
  /** Where a choice was asked for that may count from any moment on, and why it may be refused again since. */
  readonly #asked = new Map<WorldVolume, string | undefined>();
  /** Sectors that the hub knew to be unread when a recall began. */
  readonly #unread = new Map<WorldVolume, boolean[]>();
  /** Nothing that clocks say can be relied on. */
  clocksJumped = false;

  constructor(world: World) {
    this.#world = world;
  }

  /** What is remembered of a volume is damaged in a way that has to be found: a comparison is allowed. */
  excuse(volume: WorldVolume, why: string): void {
    const excuses = this.#excuses.get(volume) ?? new Set();
    this.#excuses.set(volume, excuses.add(why));
  }

  /**
   * Somebody put something else in a place.
   * @param shownBy an agent may not begin before somebody has chosen, as long as there is this to show it
   * @param isAll nothing of before is left that could show anything
   */
  tampered(volume: WorldVolume, why: string, shownBy: Evidence | undefined, isAll = false): void {
    this.#world.tell(`${volume.name}: ${why}${shownBy ? ', a conflict' : ''}`);
    this.excuse(volume, why);
    this.#suspicions.set(volume, why);
    if (isAll) this.#conflicts.delete(volume);
    if (this.#asked.has(volume)) this.#asked.set(volume, why);
    else if (shownBy) this.#conflicts.set(volume, { why, shownBy });
  }

  /** Volumes whose agent was refused, and nobody has chosen yet. */
  get refused(): WorldVolume[] {
    return [...this.#refused];
  }

  /** Somebody asks for the agent's disk to count: that may be so from now on, though nobody hears of it. @returns how to take it back */
  asked(volume: WorldVolume): () => void {
    const conflict = this.#conflicts.get(volume);
    this.#conflicts.delete(volume);
    this.#asked.set(volume, undefined);
    this.excuse(volume, 'chosen');
    return () => {
      this.#asked.delete(volume);
      if (conflict !== undefined) this.#conflicts.set(volume, conflict);
    };
  }

  /** Somebody chose the agent's disk. */
  resolved(volume: WorldVolume): void {
    this.#refused.delete(volume);
    if (!this.clocksJumped && this.#asked.get(volume) === undefined) this.#suspicions.delete(volume);
  }

  attached(volume: WorldVolume, how: Beginning | undefined, claim: Claim | undefined): void {
    const conflict = this.#conflicts.get(volume);
    // An agent whose map was emptied, since it could not be written, has forgotten what would show that it was put back.
    const isForgotten = conflict?.shownBy === 'memories' && claim?.pairing === 0n;
    if (conflict && !isForgotten) this.#world.fail(`${volume.name}: ${conflict.why}, and the hub goes on`);
    this.#conflicts.delete(volume);
    this.#asked.delete(volume);
    this.#refused.delete(volume);
    this.#unread.delete(volume);
    if (!how) return;
    this.begun[how.kind] += 1;
    this.#world.tell(`${volume.name}: ${how.kind}, ${how.reason}`);
    if (how.kind === 'recall') {
      if (claim?.finding === 'exact') this.begun.exact += 1;
      const { engine } = volume.replica!;
      this.#unread.set(
        volume,
        sectorsOf(volume, (sector) => engine.isUnread(sector * SECTOR, SECTOR)),
      );
      return;
    }
    const excuses = this.#excuses.get(volume);
    const isRemembered = claim !== undefined && claim.pairing !== 0n && this.#world.hubs.isKeeping;
    if (isRemembered && !excuses?.size && !this.clocksJumped) {
      this.#world.fail(`${volume.name}: everything is read (${how.kind}, ${how.reason}) for no reason`);
    }
  }

  /** The agent has said what the replica lacks: both sides have kept that they begin. */
  told(volume: WorldVolume, replica: Replica): void {
    this.#excuses.delete(volume);
    const before = this.#unread.get(volume);
    this.#unread.delete(volume);
    const { agents } = this.#world;
    const map = agents.maps.get(volume.name)!;
    // A map that could not be written is in memory only.
    if (!before || map.now.length <= BITS_OFFSET) return;
    const isSet = (sector: number): boolean => {
      const bit = Math.floor((sector * SECTOR) / agents.keeping.granularityBytes!);
      return Math.floor(map.now[BITS_OFFSET + Math.floor(bit / 8)]! / 2 ** (bit % 8)) % 2 === 1;
    };
    const chunkSectors = this.#world.options.sync.chunkBytes / SECTOR;
    const may = sectorsOf(volume, (sector) => isSet(sector) || before[sector]!);
    const sector = sectorsOf(volume, (one) => replica.engine.isUnread(one * SECTOR, SECTOR)).findIndex(
      (isUnread, one) => {
        const from = Math.floor(one / chunkSectors) * chunkSectors;
        return isUnread && !may.slice(from, from + chunkSectors).includes(true);
      },
    );
    if (sector !== -1)
      this.#world.fail(`${volume.name}: sector ${sector} is read again, and no map names it`);
  }

  /** No map that can be written has a bit. */
  get isRetired(): boolean {
    const { agents, hubs } = this.#world;
    if (!agents.isKeeping || !hubs.isKeeping) return true;
    return [...agents.maps.values()].every(
      ({ now }) => !now.subarray(BITS_OFFSET).some((byte) => byte !== 0),
    );
  }

  refusal(volume: WorldVolume, reason: string): void {
    if (!reason.includes('is refused')) return;
    this.#world.tell(reason);
    this.#refused.add(volume);
    this.begun.refused += 1;
    if (this.#suspicions.has(volume) || this.clocksJumped) return;
    this.#world.fail(`${volume.name}: refused for no reason: ${reason}`);
  }
}

function sectorsOf({ disk }: WorldVolume, look: (sector: number) => boolean): boolean[] {
  return Array.from(disk.now, (_, sector) => look(sector));
}
