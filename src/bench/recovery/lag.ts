// How far the replica is behind under a load, by what `repagent status` says: looked at again and again, and as the
// agent itself kept it.
import { sleep } from '../../base/sleep.ts';
import type { Children } from '../children.ts';
import { type LagCell, recoveryCellId } from './cells.ts';
import { RunningLoad } from './load.ts';
import type { ReplicatedPair } from './pair.ts';
import type { LagPercentiles, LagResult } from './result.ts';
import { rank } from './write-log.ts';

const SAMPLE_INTERVAL_MS = 50;
/** Uncounted, until caches are filled and code is compiled. */
const WARM_UP_MS = 2000;
/** What the agent's history of the last minute is about. */
const HISTORY_SECONDS = 60;

export interface LagOptions {
  readonly children: Children;
  readonly pair: ReplicatedPair;
  readonly cell: LagCell;
  readonly sizeBytes: number;
  readonly seconds: number;
  readonly aborted: AbortSignal;
}

/** @throws OperationError when a write failed, or the replica differs in the end */
export async function runLag({
  children,
  pair,
  cell,
  sizeBytes,
  seconds,
  aborted,
}: LagOptions): Promise<LagResult> {
  const load = await RunningLoad.start(children, pair, cell.load, sizeBytes);
  await sleep(WARM_UP_MS);
  const endsAt = performance.now() + seconds * 1000;
  const lags: number[] = [];
  let protectedSamples = 0;
  let last = await pair.volume();
  while (performance.now() < endsAt) {
    aborted.throwIfAborted();
    await sleep(SAMPLE_INTERVAL_MS);
    last = await pair.volume();
    lags.push(last.lagMs ?? Number.POSITIVE_INFINITY);
    if (last.state === 'protected') protectedSamples += 1;
  }
  const { iops, bytesPerSecond } = await load.end();
  const isEqual = await pair.check();
  const history = last.lagHistory?.lastMinute;
  const { p50Ms, p99Ms, maxMs } = history ?? { p50Ms: null, p99Ms: null, maxMs: null };
  return {
    ...{ id: recoveryCellId(cell), cell, seconds, iops, bytesPerSecond, samples: lags.length },
    sampled: percentiles(lags),
    worstOfSecond: history && seconds >= HISTORY_SECONDS ? { p50Ms, p99Ms, maxMs } : null,
    protectedShare: protectedSamples / lags.length,
    isEqual,
  };
}

/** @param lags milliseconds, at least one; infinite where it was unknown, which is worse than any other */
export function percentiles(lags: readonly number[]): LagPercentiles {
  const sorted = Float64Array.from(lags).sort();
  const at = (share: number): number | null => {
    const value = rank(sorted, share);
    return value === undefined || !Number.isFinite(value) ? null : Math.round(value * 10) / 10;
  };
  return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}
