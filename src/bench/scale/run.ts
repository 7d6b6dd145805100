// What many volumes and huge ones cost: an agent and a hub as processes, images and replicas sparse on tmpfs. How long
// until everything is protected, what both keep in memory at rest, and what one busy volume feels among idle ones.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../../base/errors.ts';
import { KiB, MiB } from '../../base/limits.ts';
import { formatBytes } from '../../base/size.ts';
import type { VolumeStatus } from '../../control/status.ts';
import { type BenchRunOptions, runCleanly } from '../bench-run.ts';
import type { Children } from '../children.ts';
import { parseFioReport, type SteadyLoad, steadyLoadArgs } from '../fio.ts';
import { type Machine, thisMachine } from '../machine.ts';
import { globMatches } from '../matrix.ts';
import { isCaughtUp, type OwnProgram, startHub, startMirrored, volumesOf } from '../own-process.ts';
import { residentBytesOf } from '../process-usage.ts';
import { nbdUri, until } from '../server.ts';
import { createEmptyImage, type Workspace } from '../workspace.ts';

const SYNC_TIMEOUT_MS = 900_000;
/** To ask for the status costs both sides in proportion to the volumes: it must not become the load. */
const LOOK_EVERY_MS = 50;
const LOOK_PER_VOLUME_MS = 0.5;
const FIO_GRACE_MS = 30_000;
/** The part of the disk that the load is about: writes allocate memory, images are on tmpfs. */
const LOAD_BYTES = 64 * MiB;
const LOAD: SteadyLoad = { access: 'randwrite', blockBytes: 4 * KiB, depth: 1, iops: undefined };
const WARM_UP_SECONDS = 0.5;
/** What a cell takes besides its start and the load itself. */
const AROUND_LOAD_SECONDS = 4;

export interface ScaleCell {
  /** Volumes and size of each. */
  readonly id: string;
  readonly volumes: number;
  /** Of each. */
  readonly sizeBytes: number;
  /** About how long until everything is protected. */
  readonly startSeconds: number;
}

const GIB = 1024 * MiB;

export const SCALE_CELLS: readonly ScaleCell[] = [
  { id: '1x1g', volumes: 1, sizeBytes: GIB, startSeconds: 2 },
  { id: '100x1g', volumes: 100, sizeBytes: GIB, startSeconds: 8 },
  { id: '1000x1g', volumes: 1000, sizeBytes: GIB, startSeconds: 60 },
  { id: '1x1t', volumes: 1, sizeBytes: 1024 * GIB, startSeconds: 60 },
];

/**
 * @param patterns ids, in which `*` stands for anything; none takes all
 * @throws UsageError for a pattern that finds nothing
 */
export function selectScaleCells(patterns: readonly string[]): ScaleCell[] {
  for (const pattern of patterns) {
    if (SCALE_CELLS.some(({ id }) => globMatches(pattern, id))) continue;
    const known = SCALE_CELLS.map(({ id }) => id).join(', ');
    throw new UsageError(`--cell: ${JSON.stringify(pattern)} is none of ${known}`);
  }
  if (patterns.length === 0) return [...SCALE_CELLS];
  return SCALE_CELLS.filter(({ id }) => patterns.some((one) => globMatches(one, id)));
}

export interface ScaleFigures {
  readonly cell: ScaleCell;
  /** From its start until the agent accepts clients, and until every volume is protected. */
  readonly startedAfterMs: number;
  readonly protectedAfterMs: number;
  /** Resident, when everything is protected and nobody is connected. */
  readonly agentBytes: number;
  readonly hubBytes: number;
  /** Of single 4 KiB writes to one volume, the others idle. */
  readonly iops: number;
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
}

export interface ScaleResult {
  readonly kind: 'scale';
  readonly repagentVersion: string;
  /** When it began, ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly seconds: number;
  readonly figures: readonly ScaleFigures[];
}

export interface ScaleOptions extends BenchRunOptions {
  readonly cells: readonly ScaleCell[];
  /** Of load on the busy volume. */
  readonly seconds: number;
}

/** @throws OperationError when anything doesn't work, or the run was aborted */
export function runScale(options: ScaleOptions): Promise<ScaleResult> {
  return runCleanly(options, (children, workspace) => run(options, children, workspace));
}

/** About how long it takes. @param seconds of load in each cell */
export function scaleSeconds(cells: readonly ScaleCell[], seconds: number): number {
  return cells.reduce((sum, cell) => sum + cell.startSeconds + seconds + AROUND_LOAD_SECONDS, 0);
}

/** How far the first copies are, by what has been done of them since the start. */
export function firstCopy(
  cell: ScaleCell,
  volumes: readonly VolumeStatus[],
  elapsedMs: number,
): { readonly text: string; readonly secondsLeft: number } {
  const totalBytes = cell.volumes * cell.sizeBytes;
  const done = volumes.map((one) => (isCaughtUp(one) ? cell.sizeBytes : one.syncDoneBytes));
  const doneBytes = done.reduce((sum, bytes) => sum + bytes, 0);
  const bytesPerMs = doneBytes / elapsedMs;
  const secondsLeft =
    doneBytes > 0
      ? (totalBytes - doneBytes) / bytesPerMs / 1000
      : Math.max(0, cell.startSeconds - elapsedMs / 1000);
  const percent = Math.floor((doneBytes / totalBytes) * 100);
  return { text: `first copy ${percent}%, ${formatBytes(bytesPerMs * 1000)}/s`, secondsLeft };
}

async function run(options: ScaleOptions, children: Children, workspace: Workspace): Promise<ScaleResult> {
  const { cells, seconds, program, repagentVersion, aborted, onProgress } = options;
  const about = { machine: thisMachine(), date: new Date().toISOString() };
  const figures: ScaleFigures[] = [];
  for (const [at, cell] of cells.entries()) {
    const secondsAfter = scaleSeconds(cells.slice(at + 1), seconds);
    const onStep = (step: string, secondsLeft: number): void => {
      aborted.throwIfAborted();
      onProgress(`${cell.id}: ${step}`, secondsLeft + secondsAfter);
    };
    const own = { children, program, runDir: workspace.path('tmpfs', 'run') };
    figures.push(await runCell(own, workspace, cell, seconds, onStep));
    workspace.remove();
  }
  return { kind: 'scale', repagentVersion, ...about, seconds, figures };
}

async function runCell(
  own: OwnProgram,
  workspace: Workspace,
  cell: ScaleCell,
  seconds: number,
  onStep: (step: string, secondsLeft: number) => void,
): Promise<ScaleFigures> {
  const loadSeconds = seconds + AROUND_LOAD_SECONDS;
  onStep('starting', cell.startSeconds + loadSeconds);
  const folder = workspace.path('tmpfs', 'images');
  mkdirSync(folder);
  const images = Array.from({ length: cell.volumes }, (_, at) => `v${at}=${join(folder, `v${at}.img`)}`);
  for (const image of images) createEmptyImage(image.slice(image.indexOf('=') + 1), cell.sizeBytes);
  const path = (name: string): string => workspace.path('tmpfs', name);
  const replicas = ['--store', path('store')];
  const hub = await startHub(own, { replicas, stateDir: path('hub-state') });
  const began = performance.now();
  const stateDir = path('agent-state');
  const serve = await startMirrored(own, { images, stateDir, hubPort: hub.port });
  const startedAfterMs = performance.now() - began;
  const settle = (onLook?: (volumes: readonly VolumeStatus[]) => void): Promise<void> =>
    until(
      `${cell.id}: everything is protected`,
      async () => {
        const volumes = await volumesOf(own, 'serve', serve.child.pid);
        onLook?.(volumes);
        return volumes.every(isCaughtUp);
      },
      SYNC_TIMEOUT_MS,
      LOOK_EVERY_MS + cell.volumes * LOOK_PER_VOLUME_MS,
    );
  await settle((volumes) => {
    const { text, secondsLeft } = firstCopy(cell, volumes, performance.now() - began);
    onStep(text, secondsLeft + loadSeconds);
  });
  const protectedAfterMs = performance.now() - began;
  const [agentBytes, hubBytes] = [residentBytesOf([serve.child.pid]), residentBytesOf([hub.child.pid])];
  const uri = nbdUri(serve.port, 'v0', undefined);
  const load = async (forSeconds: number): Promise<ReturnType<typeof parseFioReport>> => {
    const args = steadyLoadArgs(LOAD, uri, LOAD_BYTES, forSeconds);
    return parseFioReport(await own.children.run('fio', args, forSeconds * 1000 + FIO_GRACE_MS));
  };
  onStep('under load', loadSeconds);
  await load(WARM_UP_SECONDS);
  const { iops, p50Us, p99Us } = await load(seconds);
  await settle();
  await serve.child.stop();
  await hub.child.stop();
  return {
    cell,
    startedAfterMs,
    protectedAfterMs,
    agentBytes,
    hubBytes,
    iops,
    p50Us,
    p99Us,
  };
}
