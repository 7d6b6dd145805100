// Figures of a status as text. What is not known reads `unknown`, never 0; what has no meaning now reads `-`.
import type { LagFigures } from '../../base/lag-history.ts';
import type { ResyncRecord } from '../../base/resync-log.ts';
import { formatBytes, formatDuration } from '../../base/size.ts';
import type {
  FailoverTo,
  LinkTraffic,
  ResyncReads,
  VerificationStatus,
  VolumeStatus,
} from '../../control/status.ts';
import { printable } from './terminal.ts';

const UNKNOWN = 'unknown';
const NOT_NOW = '-';

/** A process of another version may leave a figure out. */
function isKnown(value: number | null | undefined): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

export function bytesText(value: number | null | undefined): string {
  return isKnown(value) ? formatBytes(value) : UNKNOWN;
}

export function countText(value: number | null | undefined): string {
  return isKnown(value) ? String(value) : UNKNOWN;
}

export function durationText(ms: number | null | undefined): string {
  return isKnown(ms) ? formatDuration(ms) : UNKNOWN;
}

export function rateText(bytesPerSecond: number | null | undefined): string {
  return isKnown(bytesPerSecond) ? `${formatBytes(bytesPerSecond)}/s` : UNKNOWN;
}

/** Whether a sync runs, so that it has a rate and an end. */
export function isSyncing(volume: VolumeStatus): boolean {
  return volume.state === 'initial-sync' || volume.state === 'resync' || volume.state === 'converging';
}

export function syncPercent(volume: VolumeStatus): number | undefined {
  return isKnown(volume.syncPercent) ? volume.syncPercent : undefined;
}

/** Rounded down, so that 100% means done. */
export function percentText(percent: number): string {
  return `${Math.floor(percent)}%`;
}

export function syncRateText(volume: VolumeStatus): string {
  return isSyncing(volume) ? rateText(volume.syncBytesPerSecond) : NOT_NOW;
}

export function timeLeftText(volume: VolumeStatus): string {
  if (isSyncing(volume)) return durationText(volume.syncTimeLeftMs);
  return (volume.queuedBytes ?? 0) > 0 ? durationText(volume.queueTimeLeftMs) : NOT_NOW;
}

/** One line of why and when a volume was synchronised last, and what that took. */
export function resyncText(resync: ResyncRecord): string {
  const { reason, furtherReasons, detail, outcome, startedAt, durationMs } = resync;
  const why = [reason, ...furtherReasons].join(', ');
  const what = [
    `read ${formatBytes(resync.readBytes)}`,
    ...(resync.comparedBytes > 0 ? [`compared ${formatBytes(resync.comparedBytes)}`] : []),
    ...(resync.changedBytes === null ? [] : [`for ${formatBytes(resync.changedBytes)} written`]),
  ];
  const how = outcome === 'running' ? 'for' : `${outcome} in`;
  return `${why}${detail === null ? '' : ` (${detail})`}, ${startedAt}, ${how} ${formatDuration(durationMs)}, ${what.join(', ')}`;
}

/** One line of what became of the last verification. */
export function verificationText(verification: VerificationStatus): string {
  const { outcome, startedAt, durationMs, comparedBytes, differingBytes, differing, action, error } =
    verification;
  const when = `${startedAt}, in ${formatDuration(durationMs)}`;
  if (outcome === 'failed') return `could not be finished: ${error}, ${when}`;
  if (outcome === 'equal') return `${formatBytes(comparedBytes)} equal, ${when}`;
  const where = differing.slice(0, 3).map(({ offset, length }) => `${offset}+${length}`);
  const more = where.length < differing.length ? ', ...' : '';
  const done = action === 'resync' ? 'read anew' : 'only told';
  return `${formatBytes(differingBytes)} differed, ${done}, at ${where.join(', ')}${more}, ${when}`;
}

/** `3ms/12ms/40ms`: half of the time, all but a hundredth of it, and all of it the lag was no longer. */
export function lagFiguresText(figures: LagFigures | undefined): string {
  if (!figures || figures.coveredSeconds === 0) return UNKNOWN;
  return [figures.p50Ms, figures.p99Ms, figures.maxMs].map(durationText).join('/');
}

/** `, sends 3 MiB/s` of a connection that sends, and how much it may. */
export function trafficText(traffic: LinkTraffic, codec: string | null | undefined): string {
  const { bytesPerSecond, limitBytesPerSecond, sentBytes, plainBytes } = traffic;
  const limit = isKnown(limitBytesPerSecond) ? ` of at most ${rateText(limitBytesPerSecond)}` : '';
  const saved = codec
    ? `, ${printable(codec)} saved ${bytesText(plainBytes - sentBytes)} of ${bytesText(plainBytes)}`
    : '';
  return `, sends ${rateText(bytesPerSecond)}${limit}${saved}`;
}

/** What is read of the disks for the hubs now; undefined while that is nothing. */
export function resyncReadsText({ rate, bytesPerSecond, yielding }: ResyncReads): string | undefined {
  if (bytesPerSecond === 0) return undefined;
  const how = rate !== 'auto' ? ` of at most ${rateText(rate)}` : yielding ? ', giving way to guests' : '';
  return `reads for hubs: ${rateText(bytesPerSecond)}${how}`;
}

/** What a failover would give right now; undefined: nobody said so. */
export function failoverText(failover: FailoverTo | null | undefined): string | undefined {
  if (failover === undefined) return undefined;
  if (failover === null) return 'none';
  const { by, timeMs, isExact } = failover;
  const when = isKnown(timeMs) ? new Date(timeMs).toISOString() : UNKNOWN;
  const how = by === 'recover' ? ' by `repagent recover`' : '';
  return `${when}${isExact || !isKnown(timeMs) ? '' : ' or a little later, in part'}${how}`;
}
