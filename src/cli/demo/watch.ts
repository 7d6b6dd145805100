// Watches the demo's volume through the agent's control socket, as `repagent status` does.
import { OperationError } from '../../base/errors.ts';
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus } from '../../control/client.ts';
import type { ProcessStatus, VolumeState, VolumeStatus } from '../../control/status.ts';
import { sleep } from '../run/sleep.ts';
import { isSyncing } from '../view/figures.ts';
import { ProgressLine } from '../view/progress-line.ts';

const LOOK_INTERVAL_MS = 50;

export interface Sighting {
  readonly status: ProcessStatus;
  readonly volume: VolumeStatus;
  /** The volume's states since watching began. */
  readonly seen: ReadonlySet<VolumeState>;
}

/**
 * Looks until `reached` says so, drawing the progress of a sync meanwhile.
 * @throws OperationError saying what was last seen when it takes longer than `timeoutMs`
 */
export async function watchUntil(
  control: ControlAddress,
  reached: (sighting: Sighting) => boolean,
  timeoutMs: number,
): Promise<Sighting> {
  const endsAt = performance.now() + timeoutMs;
  const line = new ProgressLine(process.stdout);
  const seen = new Set<VolumeState>();
  for (;;) {
    const sighting = await look(control, seen);
    const { volume } = sighting;
    if (isSyncing(volume)) draw(line, volume);
    if (reached(sighting)) {
      line.clear();
      return sighting;
    }
    if (performance.now() > endsAt) {
      line.clear();
      const why = volume.lastError ?? sighting.status.link?.lastError ?? 'no error was reported';
      throw new OperationError(`the volume is still ${volume.state} after ${timeoutMs / 1000} s: ${why}`);
    }
    await sleep(LOOK_INTERVAL_MS);
  }
}

async function look(control: ControlAddress, seen: Set<VolumeState>): Promise<Sighting> {
  const status = await fetchStatus(control);
  const [volume] = status.volumes;
  if (!volume) throw new OperationError('the agent reports no volume');
  seen.add(volume.state);
  return { status, volume, seen };
}

function draw(line: ProgressLine, volume: VolumeStatus): void {
  line.update(`   ${volume.state}`, {
    done: volume.syncDoneBytes,
    total: volume.syncTotalBytes,
    rate: volume.syncBytesPerSecond ?? undefined,
  });
}
