// What the hub tells of each volume.
import { steadyUs } from '../base/steady-clock.ts';
import type { FailoverTo, VolumeStatus } from '../control/status.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { Replica } from './replica.ts';
import { lagMs } from './replica-history.ts';
import { isSyncing } from './replica-states.ts';

export function replicaStatus(replica: Replica): VolumeStatus {
  const { engine } = replica;
  const now = performance.now();
  const remaining = engine.remainingBytes;
  const syncing = replica.link !== undefined && isSyncing(replica.state);
  const rate = syncing ? replica.meter.bytesPerSecond(now) : null;
  return {
    name: replica.volumeName,
    vmName: replica.vmName,
    state: replica.state,
    sizeBytes: replica.sizeBytes,
    dirtyBytes: Math.min(replica.sizeBytes, remaining + replica.content.doubtfulBytes),
    queuedBytes: null,
    sequence: Math.max(replica.receivedSequence, replica.ackedSequence),
    ackedSequence: replica.durableSequence,
    lagMs: replica.history.noteLag(replica),
    lagHistory: replica.history.lags.windows,
    resyncs: replica.history.resyncs.records,
    syncPercent: syncPercent(replica, syncing),
    syncDoneBytes: engine.totalBytes - remaining,
    syncTotalBytes: engine.totalBytes,
    syncBytesPerSecond: rate === null ? null : Math.round(rate),
    syncTimeLeftMs: syncing ? roundOrNull(replica.meter.timeLeftMs(remaining, now)) : null,
    lastError: replica.lastError,
    firstError: replica.history.errors.first,
    verification: replica.history.verifications.last,
    verifiedAt: replica.verifiedAtMs === 0 ? null : new Date(replica.verifiedAtMs).toISOString(),
    failoverTo: failoverTo(replica),
  };
}

/** A volume that the hub does not replicate, and why. */
export function refusedStatus(
  volumeName: string,
  vmName: string,
  sizeBytes: number,
  reason: string,
): VolumeStatus {
  return {
    name: volumeName,
    vmName,
    state: 'failed',
    sizeBytes,
    dirtyBytes: sizeBytes,
    queuedBytes: null,
    sequence: 0,
    ackedSequence: 0,
    lagMs: null,
    syncPercent: null,
    syncDoneBytes: 0,
    syncTotalBytes: 0,
    syncBytesPerSecond: null,
    syncTimeLeftMs: null,
    lastError: reason,
    failoverTo: null,
  };
}

function failoverTo(replica: Replica): FailoverTo | null {
  const { content, memory } = replica;
  const { undo } = content;
  if (undo?.state === 'givenUp' || memory.image.isStrange) return null;
  if (undo?.state === 'open') return pointTo('recover', undo.point);
  if (replica.link && replica.isConsistent) return nowTo(replica);
  // Left, but nothing was written since.
  if (undo && content.isGuarded) return pointTo('replica', content.point);
  return content.isGuarded ? null : pointTo('replica', memory.point);
}

/** It follows the volume. */
function nowTo(replica: Replica): FailoverTo {
  const lag = lagMs(replica, steadyUs());
  const sequence = replica.receivedSequence || null;
  return { by: 'replica', timeMs: lag === null ? null : Date.now() - lag, sequence, isExact: true };
}

function pointTo(by: FailoverTo['by'], point: RecoveryPoint | null | undefined): FailoverTo | null {
  return point ? { by, timeMs: point.timeMs, sequence: point.sequence, isExact: point.isExact } : null;
}

function syncPercent(replica: Replica, syncing: boolean): number | null {
  const { totalBytes, remainingBytes } = replica.engine;
  if (!syncing && !replica.wasProtected && totalBytes === 0) return null;
  if (totalBytes === 0) return 100;
  // Only what is all there is a hundred per cent.
  const percent = ((totalBytes - remainingBytes) / totalBytes) * 100;
  return remainingBytes === 0 ? 100 : Math.min(99.9, Math.floor(percent * 10) / 10);
}

function roundOrNull(value: number | null): number | null {
  return value === null ? null : Math.round(value);
}
