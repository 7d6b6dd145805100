// Runs the recovery bench: outages and lags with one agent and one hub on the disk, as processes; maps with several.
import { DIRTY_GRANULARITY_BYTES } from '../../base/limits.ts';
import { type DiskRunOptions, runCleanly } from '../bench-run.ts';
import type { Children } from '../children.ts';
import { thisMachine } from '../machine.ts';
import { MAP_KEEPINGS } from '../mirror-settings.ts';
import type { OwnProgram } from '../own-process.ts';
import { createEmptyImage, createImage, type Workspace } from '../workspace.ts';
import { type LagCell, type OutageCell, type RecoveryCell, recoveryCellId } from './cells.ts';
import { runLag } from './lag.ts';
import { runMapCost } from './map-cost.ts';
import { runOutage } from './outage.ts';
import { ReplicatedPair } from './pair.ts';
import type { LagResult, MapResult, OutageResult, RecoveryResult } from './result.ts';

/** What a cell takes beyond the outage or the time of watching, the first copy, and the rounds of a map, seconds. */
const AROUND_SECONDS = 12;
const START_SECONDS = 8;
const MAP_START_SECONDS = 12;
const ROUND_OVERHEAD_SECONDS = 1;

export interface RecoveryOptions extends DiskRunOptions {
  readonly cells: readonly RecoveryCell[];
  /** How long the hub stays away, and how long the lag is watched. */
  readonly outageSeconds: number;
  /** Interleaved rounds of each map cell, and seconds of load in each. */
  readonly rounds: number;
  readonly roundSeconds: number;
}

type Times = Pick<RecoveryOptions, 'outageSeconds' | 'rounds' | 'roundSeconds'>;

/** About how long it takes. */
export function recoverySeconds(cells: readonly RecoveryCell[], times: Times): number {
  const { outageSeconds, rounds, roundSeconds } = times;
  const mapSeconds =
    MAP_START_SECONDS + (rounds + 1) * MAP_KEEPINGS.length * (roundSeconds + ROUND_OVERHEAD_SECONDS);
  const perCell = cells.map(({ kind }) => (kind === 'map' ? mapSeconds : AROUND_SECONDS + outageSeconds));
  return perCell.reduce((sum, seconds) => sum + seconds, START_SECONDS);
}

/** @throws OperationError when anything doesn't work, a replica differs, or the run was aborted */
export function runRecovery(options: RecoveryOptions): Promise<RecoveryResult> {
  return runCleanly(options, (children, workspace) => run(options, children, workspace));
}

async function run(
  options: RecoveryOptions,
  children: Children,
  workspace: Workspace,
): Promise<RecoveryResult> {
  const { cells, outageSeconds, rounds, roundSeconds, sizeBytes, program, repagentVersion } = options;
  const about = { machine: thisMachine(), date: new Date().toISOString() };
  const own = { children, program, runDir: workspace.path('tmpfs', 'run') };
  const paired = cells.filter((cell) => cell.kind !== 'map');
  const { outages, lags } = await runPaired(options, own, workspace, paired);
  workspace.remove();
  const maps: MapResult[] = [];
  const mapCells = cells.filter((cell) => cell.kind === 'map');
  for (const [at, cell] of mapCells.entries()) {
    const secondsLeft = recoverySeconds(mapCells.slice(at), options) - START_SECONDS;
    const onRound = (round: number): void => {
      const done = round * MAP_KEEPINGS.length * (roundSeconds + ROUND_OVERHEAD_SECONDS);
      progress(options, `${recoveryCellId(cell)}: round ${round + 1} of ${rounds}`, secondsLeft - done);
    };
    progress(options, `${recoveryCellId(cell)}: starting`, secondsLeft);
    const ownHere = { ...own, runDir: workspace.path('tmpfs', 'run') };
    maps.push(await runMapCost({ own: ownHere, workspace, cell, rounds, roundSeconds, onRound }));
    workspace.remove();
  }
  return {
    ...{ kind: 'recovery', repagentVersion, ...about, outageSeconds, sizeBytes },
    ...{ granularityBytes: DIRTY_GRANULARITY_BYTES, outages, lags, rounds, roundSeconds, maps },
  };
}

/** The cells of one agent and one hub, in their order. */
async function runPaired(
  options: RecoveryOptions,
  own: OwnProgram,
  workspace: Workspace,
  cells: readonly (OutageCell | LagCell)[],
): Promise<Pick<RecoveryResult, 'outages' | 'lags'>> {
  const outages: OutageResult[] = [];
  const lags: LagResult[] = [];
  if (cells.length === 0) return { outages, lags };
  const { outageSeconds, sizeBytes, aborted } = options;
  const granularityBytes = DIRTY_GRANULARITY_BYTES;
  const disk = (name: string): string => workspace.path('disk', name);
  const paths = { image: disk('disk.img'), replica: disk('replica.img') };
  progress(options, 'preparing images', recoverySeconds(options.cells, options));
  createImage(paths.image, sizeBytes);
  createEmptyImage(paths.replica, sizeBytes);
  const states = { agentState: disk('agent-state'), hubState: disk('hub-state') };
  const pair = await ReplicatedPair.start(own, { ...paths, ...states });
  for (const [at, cell] of cells.entries()) {
    const left = [...cells.slice(at), ...options.cells.filter(({ kind }) => kind === 'map')];
    progress(options, `${recoveryCellId(cell)}: running`, recoverySeconds(left, options));
    const common = { children: own.children, pair, sizeBytes, aborted };
    if (cell.kind === 'lag') {
      lags.push(await runLag({ ...common, cell, seconds: outageSeconds }));
    } else {
      const logPrefix = workspace.path('tmpfs', 'writes');
      const outageMs = outageSeconds * 1000;
      outages.push(await runOutage({ ...common, cell, granularityBytes, outageMs, logPrefix }));
    }
  }
  await pair.stop();
  return { outages, lags };
}

function progress({ aborted, onProgress }: RecoveryOptions, what: string, secondsLeft: number): void {
  aborted.throwIfAborted();
  onProgress(what, Math.max(0, secondsLeft));
}
