// What a recovery run found: plain data, as `--json` prints it. A figure that could not be had is undefined or null.
import type { LagFigures } from '../../base/lag-history.ts';
import type { ResyncRecord } from '../../base/resync-log.ts';
import type { Machine } from '../machine.ts';
import type { MapKeeping } from '../mirror-settings.ts';
import type { LagCell, MapCell, OutageCell } from './cells.ts';
import type { LatencyFigures } from './write-log.ts';

export interface OutageResult {
  readonly id: string;
  readonly cell: OutageCell;
  /** From the moment at which the hub was gone until it was there again. */
  readonly outageMs: number;
  /** What the client wrote from the moment the hub was gone until the agent had named to it what it lacked. */
  readonly missed: {
    /** Each time counted. */
    readonly writtenBytes: number;
    /** Whole chunks of the dirty map that were touched, each once: what can't be avoided to be read. */
    readonly chunkBytes: number;
  };
  /** The same by the agent's own count; null: it did not count from the start. */
  readonly countedBytes: number | null;
  /** What the client wrote entirely while there was no hub: chunks that must have been read again. */
  readonly certainChunkBytes: number;
  /** What was read of the agent's disk, and of how much digests were compared, because of the outage. */
  readonly readBytes: number;
  readonly comparedBytes: number;
  /** readBytes / missed.chunkBytes, and / missed.writtenBytes. */
  readonly readPerChunk: number;
  readonly readPerWritten: number;
  readonly resyncs: readonly ResyncRecord[];
  /** From the hub's return until the agent told it what it lacked; until the volume was protected, less than a second behind. */
  readonly attachedAfterMs: number;
  readonly protectedAfterMs: number;
  /** What the guest felt: before the outage, in it, and until the volume was protected. */
  readonly latency: {
    readonly before: LatencyFigures;
    readonly during: LatencyFigures;
    readonly recovering: LatencyFigures;
  };
  /** SHA-256 of disk and replica were equal when the load had ended and everything was acknowledged. */
  readonly isEqual: true;
}

/** Percentiles of the lag (RPO), milliseconds; null: unknown for that share of the time. */
export type LagPercentiles = Pick<LagFigures, 'p50Ms' | 'p99Ms' | 'maxMs'>;

export interface LagResult {
  readonly id: string;
  readonly cell: LagCell;
  readonly seconds: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Looked at again and again while the load ran. */
  readonly samples: number;
  readonly sampled: LagPercentiles;
  /** By the agent's own account, which misses nothing: the longest lag of each second; null for a load below a minute. */
  readonly worstOfSecond: LagPercentiles | null;
  /** The share of samples in which the volume was protected. */
  readonly protectedShare: number;
  readonly isEqual: true;
}

/** One way to keep the map, over all rounds. */
export interface MapFigures {
  readonly keeping: MapKeeping;
  /** The median of the rounds, and (largest - smallest) / median. */
  readonly iops: number;
  readonly spread: number;
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  /** CPU seconds of the agent alone for a million writes, over all rounds. */
  readonly agentCpuPerMillion: number;
  /** The share of writes that set a new bit in the file, and syncs of it per write. */
  readonly newBitShare: number;
  readonly syncsPerWrite: number;
  readonly roundIops: readonly number[];
}

export interface MapResult {
  readonly id: string;
  readonly cell: MapCell;
  readonly keepings: readonly MapFigures[];
  readonly isEqual: true;
}

export interface RecoveryResult {
  readonly kind: 'recovery';
  readonly repagentVersion: string;
  /** When it began, ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly outageSeconds: number;
  readonly sizeBytes: number;
  /** Bytes of disk that one bit of the dirty map stands for. */
  readonly granularityBytes: number;
  readonly outages: readonly OutageResult[];
  readonly lags: readonly LagResult[];
  /** Interleaved rounds of each map cell, and seconds of load in each. */
  readonly rounds: number;
  readonly roundSeconds: number;
  readonly maps: readonly MapResult[];
}
