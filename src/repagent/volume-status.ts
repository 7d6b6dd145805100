// One volume of the agent as `repagent status` shows it.
import type { VolumeStatus } from '../control/status.ts';
import { UNKNOWN_TIME_US } from './dirty-map.ts';
import type { ProtectedVolume } from './protected-volume.ts';

/** @param nowUs the time, Unix microseconds */
export function volumeStatus(volume: ProtectedVolume, vmName: string, nowUs: number): VolumeStatus {
  const { health, map, lastSequence } = volume;
  const state = health.state(volume.mode === 'degraded');
  const { percent, bytesPerSecond, timeLeftMs } = health.meter.progress;
  const isSyncing = state === 'initial-sync' || state === 'resync';
  return {
    name: volume.name,
    vmName,
    state,
    sizeBytes: volume.sizeBytes,
    dirtyBytes: map.dirtyBytes,
    queuedBytes: volume.queuedBytes,
    sequence: lastSequence,
    ackedSequence: Math.min(health.ackedSequence, lastSequence),
    lagMs: lagMs(health.wasInSync, map.oldestTimeUs, nowUs),
    syncPercent: state === 'protected' ? 100 : percent,
    syncDoneBytes: health.meter.doneBytes,
    syncTotalBytes: health.meter.totalBytes,
    syncBytesPerSecond: isSyncing ? bytesPerSecond : null,
    syncTimeLeftMs: isSyncing ? timeLeftMs : null,
    lastError: health.lastError,
  };
}

/**
 * Age of the oldest change that isn't durable at the hub; null as long as the replica was never complete, and while
 * something is dirty of which only the persistent map knows, which keeps no times.
 * @param oldestTimeUs as the dirty map gives it
 * @param nowUs the time, Unix microseconds
 */
export function lagMs(wasInSync: boolean, oldestTimeUs: number, nowUs: number): number | null {
  if (!wasInSync || oldestTimeUs === UNKNOWN_TIME_US) return null;
  return oldestTimeUs === 0 ? 0 : Math.max(0, Math.round((nowUs - oldestTimeUs) / 1000));
}
