// One outage: a load runs, the hub goes away, stays away, and comes back. What the client wrote meanwhile is the
// client's own account; what was read again is the agent's; that disk and replica are equal at the end is looked at.
import { readFile, rm } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { ResyncRecord } from '../../base/resync-log.ts';
import type { VolumeStatus } from '../../control/status.ts';
import type { Children } from '../children.ts';
import { requestLogArgs, requestLogPath } from '../fio.ts';
import { until } from '../server.ts';
import { type OutageCell, recoveryCellId } from './cells.ts';
import { RunningLoad } from './load.ts';
import type { ReplicatedPair } from './pair.ts';
import type { OutageResult } from './result.ts';
import { type Period, WriteLog } from './write-log.ts';

/** Of load before the outage, and after the recovery. */
const BEFORE_MS = 3000;
const AFTER_MS = 1000;
const RECOVERY_TIMEOUT_MS = 300_000;
/** A volume that is protected has recovered when it is less than this behind, ms. */
const CLOSE_BEHIND_MS = 1000;

export interface OutageOptions {
  readonly children: Children;
  readonly pair: ReplicatedPair;
  readonly cell: OutageCell;
  readonly sizeBytes: number;
  readonly granularityBytes: number;
  readonly outageMs: number;
  /** Where the client's log may lie for a while. */
  readonly logPrefix: string;
  readonly aborted: AbortSignal;
}

/** The moments of an outage, Unix milliseconds. */
interface Moments {
  readonly beganMs: number;
  /** The hub is about to go away, is gone, is about to come back, is back, and the volume is protected. */
  readonly leavingMs: number;
  readonly goneMs: number;
  readonly returningMs: number;
  readonly backMs: number;
  readonly protectedMs: number;
}

/** @throws OperationError when a write failed, the volume doesn't recover, or the replica differs in the end */
export async function runOutage(options: OutageOptions): Promise<OutageResult> {
  const { children, pair, cell, sizeBytes, outageMs, logPrefix, aborted } = options;
  const load = await RunningLoad.start(children, pair, cell.load, sizeBytes, requestLogArgs(logPrefix));
  const beganMs = Date.now();
  await pause(BEFORE_MS, undefined, { signal: aborted });
  const leavingMs = Date.now();
  await pair.takeHubAway(cell.absence);
  const goneMs = Date.now();
  await pause(outageMs, undefined, { signal: aborted });
  const returningMs = Date.now();
  await pair.bringHubBack();
  const backMs = Date.now();
  let volume: VolumeStatus = await pair.volume();
  const hasRecovered = async (): Promise<boolean> => {
    volume = await pair.volume();
    return volume.state === 'protected' && volume.lagMs !== null && volume.lagMs < CLOSE_BEHIND_MS;
  };
  await until('the volume is protected again', hasRecovered, RECOVERY_TIMEOUT_MS);
  const moments = { beganMs, leavingMs, goneMs, returningMs, backMs, protectedMs: Date.now() };
  await pause(AFTER_MS, undefined, { signal: aborted });
  await load.end();
  const log = WriteLog.parse(await readFile(requestLogPath(logPrefix), 'latin1'));
  await rm(requestLogPath(logPrefix));
  const isEqual = await pair.check();
  return { ...figuresOf(options, moments, volume.resyncs ?? [], log), isEqual };
}

function figuresOf(
  { cell, sizeBytes, granularityBytes }: OutageOptions,
  { beganMs, leavingMs, goneMs, returningMs, backMs, protectedMs }: Moments,
  records: readonly ResyncRecord[],
  log: WriteLog,
): Omit<OutageResult, 'isEqual'> {
  const resyncs = records.filter(({ startedAt }) => Date.parse(startedAt) >= leavingMs);
  // Newest first. From the last one on, changes went by the stream. None: the agent did not notice.
  const namedMs = Math.max(backMs, ...resyncs.slice(0, 1).map(({ startedAt }) => Date.parse(startedAt)));
  const sum = (of: (record: ResyncRecord) => number): number =>
    resyncs.reduce((total, record) => total + of(record), 0);
  const away: Period = { fromMs: leavingMs, toMs: namedMs };
  const chunkBytesIn = (period: Period): number => log.chunkBytes(period, granularityBytes, sizeBytes);
  const missed = { writtenBytes: log.writtenBytes(away), chunkBytes: chunkBytesIn(away) };
  const readBytes = sum((one) => one.readBytes);
  const counts = resyncs.map(({ changedBytes }) => changedBytes);
  return {
    id: recoveryCellId(cell),
    cell,
    outageMs: backMs - goneMs,
    missed,
    countedBytes: counts.includes(null) ? null : counts.reduce<number>((total, one) => total + (one ?? 0), 0),
    certainChunkBytes: chunkBytesIn({ fromMs: goneMs, toMs: returningMs }),
    readBytes,
    comparedBytes: sum((one) => one.comparedBytes),
    readPerChunk: readBytes / missed.chunkBytes,
    readPerWritten: readBytes / missed.writtenBytes,
    resyncs,
    attachedAfterMs: namedMs - backMs,
    protectedAfterMs: protectedMs - backMs,
    latency: {
      before: log.latency({ fromMs: beganMs, toMs: leavingMs }),
      during: log.latency({ fromMs: leavingMs, toMs: backMs }),
      recovering: log.latency({ fromMs: backMs, toMs: protectedMs }),
    },
  };
}
