// The agents of one machine, one for each hub: each has its own link, queue, stream, maps and states, and shares with the
// others nothing but the disks. It must never let what happens at one hub reach another, nor count two copies where one is.
import { OperationError, UsageError } from '../base/errors.ts';
import { MAX_HUBS_PER_AGENT } from '../base/limits.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type {
  LinkStatus,
  ResyncReads,
  VerifyProgress,
  VerifyResult,
  VolumeStatus,
} from '../control/status.ts';
import { Agent, type AgentOptions, type AgentStats } from './agent.ts';
import type { DirtyRun } from './dirty-map.ts';
import { combineHubs } from './hub-combination.ts';
import { HubRoster } from './hub-roster.ts';
import { MirrorFilter } from './mirror-filter.ts';
import { ResyncPace, type ResyncRate } from './resync-pace.ts';
import type { ImageMark } from './sidecar-finding.ts';

/** One hub of a group. */
export interface GroupHub extends Pick<AgentOptions, 'hubHost' | 'hubPort' | 'state' | 'tls' | 'logger'> {
  /** What people call it: its address, unless it was given a name. */
  readonly name: string;
}

/** What is the same for all of them. The queue's limit is each hub's. */
export interface GroupOptions extends Omit<AgentOptions, keyof GroupHub | 'admitHub' | 'pace'> {
  /** How fast disks are read for all of them together. */
  readonly resyncRate?: ResyncRate | undefined;
}

export interface GroupStatus {
  /** The link of the hub that is worst off. */
  readonly link: LinkStatus;
  readonly links: readonly LinkStatus[];
  readonly resyncReads: ResyncReads;
  readonly volumes: readonly VolumeStatus[];
}

export interface GroupStats extends AgentStats {
  readonly hubs: Readonly<Record<string, AgentStats>>;
}

export class AgentGroup {
  readonly #agents: ReadonlyMap<string, Agent>;
  readonly #pace: ResyncPace;

  /** @throws UsageError when there are no hubs, too many, or two of one name or address */
  constructor(hubs: readonly GroupHub[], options: GroupOptions) {
    checkHubs(hubs);
    const roster = new HubRoster();
    const pace = new ResyncPace(options.resyncRate ?? 'auto');
    this.#pace = pace;
    this.#agents = new Map(
      hubs.map((hub) => {
        const admitHub = (hubId: Buffer): string | undefined => roster.admit(hub.name, hubId);
        return [hub.name, new Agent({ ...options, ...hub, admitHub, pace })];
      }),
    );
  }

  /**
   * Registers a volume at every hub; as {@link Agent.protect}.
   * @throws UsageError or OperationError when the volume can't be replicated
   */
  protect(name: string, below: BlockDevice, image: () => ImageMark | undefined): BlockDevice {
    const disk = new MirrorFilter(below);
    for (const agent of this.#agents.values()) agent.mirror(name, disk, image);
    return disk;
  }

  /** Begins to dial every hub. */
  start(): void {
    for (const agent of this.#agents.values()) agent.start();
  }

  status(): GroupStatus {
    const each = [...this.#agents].map(([hub, agent]) => ({ hub, ...agent.status() }));
    const links = each.map(({ hub, link }): LinkStatus => ({ name: hub, ...link }));
    const [first] = each;
    const volumes = first!.volumes.map(({ name }) =>
      combineHubs(
        each.map(({ hub, link, volumes: all }) => ({
          hub,
          address: link.hub,
          link: link.state,
          volume: all.find((one) => one.name === name)!,
        })),
      ),
    );
    const link = links.find(({ state }) => state !== 'live') ?? links[0]!;
    return { link, links, resyncReads: this.#pace.status, volumes };
  }

  /** Sums over the hubs, and each by itself when there are several. */
  get stats(): AgentStats | GroupStats {
    const each = [...this.#agents].map(([hub, agent]) => [hub, agent.stats] as const);
    const total = each.map(([, stats]) => stats).reduce(addStats);
    return each.length === 1 ? total : { ...total, hubs: Object.fromEntries(each) };
  }

  /** Which parts of a range of a volume any of the hubs may lack, from its start on; see DirtyMap.runs. */
  dirtyRuns(volume: string, offset: number, length: number, maxRuns: number): DirtyRun[] {
    const agents = [...this.#agents.values()];
    if (agents.length === 1) return agents[0]!.dirtyRuns(volume, offset, length, maxRuns);
    return joinRuns(
      agents.map((agent) => (at: number, left: number) => agent.dirtyRuns(volume, at, left, 1)[0]!),
      offset,
      length,
      maxRuns,
    );
  }

  /**
   * Has a hub compare a volume with its replica, while writes go on.
   * @param hub its name; may be left out when there is only one
   * @throws OperationError when it can't be done now, or not finished
   */
  async verify(
    volume: string,
    onProgress: (progress: VerifyProgress) => void,
    hub?: string,
  ): Promise<VerifyResult> {
    const names = [...this.#agents.keys()];
    const name = hub ?? (names.length === 1 ? names[0]! : undefined);
    if (name === undefined) {
      throw new OperationError(
        `volume ${JSON.stringify(volume)} has a replica at each of ${names.length} hubs`,
        {
          hint: `name one with --hub: ${names.join(', ')}`,
        },
      );
    }
    const agent = this.#agents.get(name);
    if (!agent) {
      throw new OperationError(`there is no hub ${JSON.stringify(name)}`, {
        hint: `there are: ${names.join(', ')}`,
      });
    }
    return { ...(await agent.verify(volume, onProgress)), hub: name };
  }

  /** Takes leave of every hub; a slow one keeps no other from its own. */
  async close(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.close()));
  }
}

/** @throws UsageError */
function checkHubs(hubs: readonly GroupHub[]): void {
  if (hubs.length === 0 || hubs.length > MAX_HUBS_PER_AGENT) {
    throw new UsageError(`an agent has 1 to ${MAX_HUBS_PER_AGENT} hubs, not ${hubs.length}`);
  }
  const seen = new Set<string>();
  for (const { name, hubHost, hubPort } of hubs) {
    for (const text of new Set([name, `${hubHost}:${hubPort}`])) {
      if (seen.has(text)) throw new UsageError(`the hub ${text} is there twice; each makes one replica`);
      seen.add(text);
    }
  }
}

function addStats(a: AgentStats, b: AgentStats): AgentStats {
  return {
    connections: a.connections + b.connections,
    sequence: Math.max(a.sequence, b.sequence),
    queuedBytes: a.queuedBytes + b.queuedBytes,
    overflows: a.overflows + b.overflows,
    remoteReads: a.remoteReads + b.remoteReads,
    remoteReadBytes: a.remoteReadBytes + b.remoteReadBytes,
    remoteWrites: a.remoteWrites + b.remoteWrites,
    remoteWriteBytes: a.remoteWriteBytes + b.remoteWriteBytes,
    remoteRefusals: a.remoteRefusals + b.remoteRefusals,
  };
}

/** The first run of a part of the disk, as one hub sees it. */
type FirstRun = (offset: number, length: number) => DirtyRun;

/** What is dirty for any is dirty; what is clean for all is clean. */
function joinRuns(hubs: readonly FirstRun[], offset: number, length: number, maxRuns: number): DirtyRun[] {
  const end = offset + length;
  const runs: DirtyRun[] = [];
  for (let at = offset; at < end && runs.length < maxRuns; ) {
    const first = joinedRun(hubs, at, end);
    let until = at + first.length;
    while (first.isDirty && until < end) {
      const next = joinedRun(hubs, until, end);
      if (!next.isDirty) break;
      until += next.length;
    }
    runs.push({ length: until - at, isDirty: first.isDirty });
    at = until;
  }
  return runs;
}

/** A run from `at` on that may go on behind its end if it is dirty. */
function joinedRun(hubs: readonly FirstRun[], at: number, end: number): DirtyRun {
  const runs = hubs.map((run) => run(at, end - at));
  const dirty = runs.filter(({ isDirty }) => isDirty).map((run) => run.length);
  if (dirty.length > 0) return { length: Math.max(...dirty), isDirty: true };
  return { length: Math.min(...runs.map((run) => run.length)), isDirty: false };
}
