// What many volumes, huge ones and many agents cost: agents and a hub as processes, images and replicas sparse on tmpfs.
// How long until everything is protected, what all of it takes at rest, and what those feel that are written to.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KiB, MiB } from '../../base/limits.ts';
import { sleep } from '../../base/sleep.ts';
import type { VolumeStatus } from '../../control/status.ts';
import { type BenchRunOptions, runCleanly } from '../bench-run.ts';
import type { Children } from '../children.ts';
import { type FioFigures, parseFioReport, type SteadyLoad, steadyLoadsArgs } from '../fio.ts';
import { thisMachine } from '../machine.ts';
import { isCaughtUp, type OwnProgram, startHub, startMirrored, volumesOf } from '../own-process.ts';
import { residentBytesOf, watchCpu } from '../process-usage.ts';
import { nbdUri, until } from '../server.ts';
import { createEmptyImage, type Workspace } from '../workspace.ts';
import { AROUND_LOAD_SECONDS, REST_SECONDS, type ScaleCell, scaleSeconds } from './cells.ts';
import type { ScaleFigures, ScaleResult, ScaleRun } from './figures.ts';
import { firstCopy } from './first-copy.ts';
import { runFleet } from './fleet.ts';

const SYNC_TIMEOUT_MS = 300_000;
/** To ask for the status costs both sides in proportion to the volumes: it must not become the load. */
const LOOK_EVERY_MS = 50;
const LOOK_PER_VOLUME_MS = 0.5;
const FIO_GRACE_MS = 30_000;
/** The part of a disk that a load is about: writes allocate memory, images are on tmpfs. */
const LOAD_BYTES = 16 * MiB;
const WARM_UP_SECONDS = 0.5;

export interface ScaleOptions extends BenchRunOptions {
  readonly cells: readonly ScaleCell[];
  /** Of load. */
  readonly seconds: number;
}

/** @throws OperationError when anything doesn't work, or the run was aborted */
export function runScale(options: ScaleOptions): Promise<ScaleResult> {
  return runCleanly(options, (children, workspace) => run(options, children, workspace));
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
    const one: ScaleRun = { own, workspace, cell, seconds, onStep };
    figures.push(await (cell.agents === 1 ? runVolumes(one) : runFleet(one)));
    workspace.remove();
  }
  return { kind: 'scale', repagentVersion, ...about, seconds, figures };
}

async function runVolumes({ own, workspace, cell, seconds, onStep }: ScaleRun): Promise<ScaleFigures> {
  const loadSeconds = REST_SECONDS + seconds + AROUND_LOAD_SECONDS;
  onStep('starting', cell.startSeconds + loadSeconds);
  const folder = workspace.path('tmpfs', 'images');
  mkdirSync(folder);
  const images = Array.from({ length: cell.volumes }, (_, at) => `v${at}=${join(folder, `v${at}.img`)}`);
  for (const image of images) createEmptyImage(image.slice(image.indexOf('=') + 1), cell.sizeBytes);
  const path = (name: string): string => workspace.path('tmpfs', name);
  const hub = await startHub(own, { replicas: ['--store', path('store')], stateDir: path('hub-state') });
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
  const pids = [serve.child.pid, hub.child.pid];
  const [agentBytes, hubBytes] = pids.map((pid) => residentBytesOf([pid])) as [number, number];
  onStep('at rest', loadSeconds);
  const rest = watchCpu(pids);
  await sleep(REST_SECONDS * 1000);
  const [agentRestShare, hubRestShare] = rest() as [number, number];
  const uris = Array.from({ length: cell.busy }, (_, at) => nbdUri(serve.port, `v${at}`, undefined));
  onStep('under load', loadSeconds - REST_SECONDS);
  await load(own, cell, uris, WARM_UP_SECONDS);
  const loaded = watchCpu(pids);
  const { iops, p50Us, p99Us } = await load(own, cell, uris, seconds);
  const [agentLoadShare, hubLoadShare] = loaded() as [number, number];
  await settle();
  await serve.child.stop();
  await hub.child.stop();
  return {
    ...{ cell, startedAfterMs, protectedAfterMs, agentBytes, hubBytes, agentRestShare, hubRestShare },
    ...{ agentLoadShare, hubLoadShare, iops, p50Us, p99Us },
  };
}

async function load(
  { children }: OwnProgram,
  { iops }: ScaleCell,
  uris: readonly string[],
  seconds: number,
): Promise<FioFigures> {
  const steady: SteadyLoad = { access: 'randwrite', blockBytes: 4 * KiB, depth: 1, iops };
  const args = steadyLoadsArgs(steady, uris, LOAD_BYTES, seconds);
  return parseFioReport(await children.run('fio', args, seconds * 1000 + FIO_GRACE_MS));
}
