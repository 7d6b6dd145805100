// Values of the status shapes for tests.
import type { ProcessStatus, VolumeStatus } from '../../../src/control/status.ts';

export function sampleVolume(over: Partial<VolumeStatus> = {}): VolumeStatus {
  return {
    name: 'disk',
    vmName: 'vm',
    state: 'protected',
    sizeBytes: 2 ** 30,
    dirtyBytes: 0,
    queuedBytes: 0,
    sequence: 12,
    ackedSequence: 12,
    lagMs: 3,
    syncPercent: 100,
    syncDoneBytes: 2 ** 30,
    syncTotalBytes: 2 ** 30,
    syncBytesPerSecond: null,
    syncTimeLeftMs: null,
    lastError: null,
    ...over,
  };
}

export function sampleStatus(
  volumes: readonly VolumeStatus[],
  over: Partial<ProcessStatus> = {},
): ProcessStatus {
  return {
    role: 'agent',
    pid: 42,
    version: '0.1.0',
    listening: ['nbd://127.0.0.1:10809'],
    link: { hub: '127.0.0.1:9010', state: 'live', lastError: null },
    volumes,
    ...over,
  };
}
