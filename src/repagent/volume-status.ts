// One volume of the agent as `repagent status` shows it.
import type { VolumeStatus } from '../control/status.ts';
import type { GuestThrottle } from './guest-throttle.ts';
import type { ProtectedVolume } from './protected-volume.ts';

function throttleStatus(throttle: GuestThrottle | undefined): NonNullable<VolumeStatus['throttle']> | null {
  if (!throttle) return null;
  const { delayMs, maxDelayMs, delayedChanges } = throttle;
  return { delayMs, maxDelayMs, delayedChanges };
}

export function volumeStatus(volume: ProtectedVolume, vmName: string): VolumeStatus {
  const { health, map, lastSequence } = volume;
  const state = health.state(volume.mode === 'degraded');
  const { percent, bytesPerSecond, timeLeftMs } = health.meter.progress;
  const lag = volume.noteLag();
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
    lagMs: lag,
    lagHistory: health.lags.windows,
    resyncs: volume.resyncs.records,
    throttle: throttleStatus(volume.throttle),
    queueTimeLeftMs: volume.queueTimeLeftMs,
    syncPercent: state === 'protected' ? 100 : percent,
    syncDoneBytes: health.meter.doneBytes,
    syncTotalBytes: health.meter.totalBytes,
    syncBytesPerSecond: isSyncing ? bytesPerSecond : null,
    syncTimeLeftMs: isSyncing ? timeLeftMs : null,
    lastError: health.lastError,
    firstError: health.errors.first,
  };
}
