// What a kept dirty map costs: servers that differ in nothing but where their map is, each with an image and a hub of its
// own, measured in turn. Images are on tmpfs, so that no disk hides the cost; the map's file is where a real one is.
import { fileURLToPath } from 'node:url';
import { MiB } from '../../base/limits.ts';
import { fetchStats } from '../../control/client.ts';
import { ownSocketPath } from '../../control/runtime-dir.ts';
import { parseFioReport, steadyLoadArgs } from '../fio.ts';
import {
  EXPORT,
  MAP_KEEPINGS,
  type MapCounts,
  type MapKeeping,
  type MirrorServerSettings,
} from '../mirror-settings.ts';
import { orderOfRound } from '../order.ts';
import { compare, isCaughtUp, type OwnProgram, onlyVolume, startHub } from '../own-process.ts';
import { cpuSecondsOf } from '../process-usage.ts';
import { nbdUri, until } from '../server.ts';
import { median, spread } from '../statistics.ts';
import { createEmptyImage, createImage, type Workspace } from '../workspace.ts';
import { type MapCell, recoveryCellId } from './cells.ts';
import type { MapFigures, MapResult } from './result.ts';

export const MAP_IMAGE_BYTES = 256 * MiB;
const START_TIMEOUT_MS = 30_000;
const SYNC_TIMEOUT_MS = 120_000;
const FIO_GRACE_MS = 30_000;
const WARM_UP_SECONDS = 1;

export interface MapCostOptions {
  readonly own: OwnProgram;
  readonly workspace: Workspace;
  readonly cell: MapCell;
  readonly rounds: number;
  readonly roundSeconds: number;
  /** Called before each round. */
  readonly onRound: (round: number) => void;
}

interface Mirror {
  readonly keeping: MapKeeping;
  readonly agentPid: number;
  readonly uri: string;
  settle(): Promise<void>;
  counts(): Promise<MapCounts>;
  check(): Promise<void>;
  stop(): Promise<void>;
}

interface MapRound {
  readonly ios: number;
  readonly iops: number;
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  readonly agentCpuSeconds: number;
  readonly bitWrites: number;
  readonly syncs: number;
}

/** @throws OperationError when anything doesn't work, or a replica differs */
export async function runMapCost(options: MapCostOptions): Promise<MapResult> {
  const { cell, rounds, roundSeconds, own, onRound } = options;
  const mirrors: Mirror[] = [];
  const found = new Map<MapKeeping, MapRound[]>(MAP_KEEPINGS.map((keeping) => [keeping, []]));
  for (const keeping of MAP_KEEPINGS) mirrors.push(await startMirror(options, keeping));
  for (const mirror of mirrors) await measure(own, mirror, cell, WARM_UP_SECONDS);
  for (let round = 0; round < rounds; round += 1) {
    onRound(round);
    for (const mirror of orderOfRound(mirrors, round)) {
      found.get(mirror.keeping)!.push(await measure(own, mirror, cell, roundSeconds));
    }
  }
  for (const mirror of mirrors) await mirror.check();
  for (const mirror of mirrors) await mirror.stop();
  const keepings = MAP_KEEPINGS.map((keeping) => mapFigures(keeping, found.get(keeping)!));
  return { id: recoveryCellId(cell), cell, keepings, isEqual: true };
}

async function startMirror(options: MapCostOptions, keeping: MapKeeping): Promise<Mirror> {
  const { own, workspace, cell } = options;
  const name = `${cell.chunkBytes}-${keeping}`;
  const image = workspace.path('tmpfs', `map-disk-${name}.img`);
  const replica = workspace.path('tmpfs', `map-replica-${name}.img`);
  createImage(image, MAP_IMAGE_BYTES);
  createEmptyImage(replica, MAP_IMAGE_BYTES);
  const hub = await startHub(own, {
    replicas: [`${EXPORT}=${replica}`],
    stateDir: workspace.path('tmpfs', `map-hub-${name}`),
  });
  const settings: MirrorServerSettings = {
    ...{ image, hubPort: hub.port, map: keeping, granularityBytes: cell.chunkBytes },
    mapFile: workspace.path('disk', `bench-${name}.map`),
  };
  const script = fileURLToPath(new URL('../mirror-server.js', import.meta.url));
  const agent = own.children.start(process.execPath, [script, JSON.stringify(settings)], {
    env: { REPAGENT_RUNTIME_DIR: own.runDir },
  });
  const port = Number(await agent.firstLine(START_TIMEOUT_MS));
  const control = { kind: 'unix', path: ownSocketPath(own.runDir, 'serve', agent.pid) } as const;
  const mirror: Mirror = {
    keeping,
    agentPid: agent.pid,
    uri: nbdUri(port, EXPORT),
    settle: () =>
      until(
        `map ${keeping}: the replica follows`,
        async () => isCaughtUp(await onlyVolume(own, 'serve', agent.pid)),
        SYNC_TIMEOUT_MS,
      ),
    counts: async () => (await fetchStats(control)) as MapCounts,
    check: () => compare(`map ${keeping}`, image, replica),
    stop: async () => {
      await agent.stop();
      await hub.child.stop();
    },
  };
  await mirror.settle();
  return mirror;
}

async function measure(own: OwnProgram, mirror: Mirror, cell: MapCell, seconds: number): Promise<MapRound> {
  const [before, cpuBefore] = [await mirror.counts(), cpuSecondsOf([mirror.agentPid])];
  const args = steadyLoadArgs(cell.load, mirror.uri, MAP_IMAGE_BYTES, seconds);
  const report = parseFioReport(await own.children.run('fio', args, seconds * 1000 + FIO_GRACE_MS));
  // What is still to be sent is part of the work, and must not disturb who comes next.
  await mirror.settle();
  const [after, cpuAfter] = [await mirror.counts(), cpuSecondsOf([mirror.agentPid])];
  const { ios, iops, p50Us, p99Us } = report;
  return {
    ...{ ios, iops, p50Us, p99Us, agentCpuSeconds: cpuAfter - cpuBefore },
    ...{ bitWrites: after.bitWrites - before.bitWrites, syncs: after.syncs - before.syncs },
  };
}

/** @param rounds at least one */
export function mapFigures(keeping: MapKeeping, rounds: readonly MapRound[]): MapFigures {
  const total = (of: (round: MapRound) => number): number => rounds.reduce((sum, one) => sum + of(one), 0);
  const middle = (of: (round: MapRound) => number | undefined): number | undefined => {
    const known = rounds.map(of).filter((value) => value !== undefined);
    return known.length === 0 ? undefined : median(known);
  };
  const ios = total((one) => one.ios);
  const roundIops = rounds.map(({ iops }) => iops);
  return {
    keeping,
    iops: median(roundIops),
    spread: spread(roundIops),
    p50Us: middle((one) => one.p50Us),
    p99Us: middle((one) => one.p99Us),
    agentCpuPerMillion: (total((one) => one.agentCpuSeconds) / ios) * 1e6,
    newBitShare: total((one) => one.bitWrites) / ios,
    syncsPerWrite: total((one) => one.syncs) / ios,
    roundIops,
  };
}
