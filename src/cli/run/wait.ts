// `repagent wait`: looks at the status until the volumes are in a state, and says why when the time is up.
import { errorMessage, OperationError } from '../../base/errors.ts';
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus } from '../../control/client.ts';
import type { ProcessStatus, VolumeState, VolumeStatus } from '../../control/status.ts';
import { isNamed } from '../../control/volume-name.ts';
import { linkName, statusLine } from '../view/status-table.ts';
import { findControl } from './find-control.ts';
import { sleep } from './sleep.ts';

export interface WaitRequest {
  readonly control: ControlAddress | undefined;
  readonly state: VolumeState;
  readonly volume: string | undefined;
  /** Undefined: every hub. */
  readonly hub: string | undefined;
  /** Milliseconds; undefined waits for ever. */
  readonly timeoutMs: number | undefined;
}

const LOOK_INTERVAL_MS = 100;

/** @returns 0 when the state is reached, 1 when the time was up first @throws OperationError when nobody can be asked */
export async function runWait(request: WaitRequest): Promise<number> {
  const { timeoutMs } = request;
  const endsAt = timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
  for (;;) {
    const state = await look(request);
    if (state === 'reached') return 0;
    const left = endsAt - performance.now();
    if (left <= 0) {
      process.stderr.write(
        `repagent: not ${request.state} after ${(timeoutMs ?? 0) / 1000} s: ${state.why}\n`,
      );
      return 1;
    }
    await sleep(Math.min(LOOK_INTERVAL_MS, left));
  }
}

/** With a time limit, a process that is not there yet is waited for too. */
async function look(request: WaitRequest): Promise<'reached' | { readonly why: string }> {
  let status: ProcessStatus;
  try {
    status = await fetchStatus(await findControl(request.control));
  } catch (error) {
    if (request.timeoutMs === undefined || !(error instanceof OperationError)) throw error;
    return { why: errorMessage(error) };
  }
  return judge(status, request.state, request.volume, request.hub);
}

/** Whether `status` is what is waited for; if not, why. */
export function judge(
  status: ProcessStatus,
  state: VolumeState,
  volume: string | undefined,
  hub?: string,
): 'reached' | { readonly why: string } {
  const wanted = volume === undefined ? status.volumes : status.volumes.filter((one) => isNamed(one, volume));
  if (wanted.length === 0) {
    const known = status.volumes.map((one) => one.name).join(', ') || 'none';
    return {
      why:
        volume === undefined ? 'there are no volumes' : `there is no volume ${volume}; there are: ${known}`,
    };
  }
  const states = wanted.map((one) => stateAt(one, hub));
  if (states.includes(undefined)) {
    const known = wanted[0]!.hubs?.map((one) => one.hub).join(', ') || 'none';
    return { why: `there is no hub ${hub}; there are: ${known}` };
  }
  const others = wanted.filter((_one, at) => states[at] !== state);
  if (others.length === 0) return 'reached';
  return { why: others.map((one) => statusLine(one)).join('; ') + linksText(status, hub) };
}

function stateAt(volume: VolumeStatus, hub: string | undefined): VolumeState | undefined {
  return hub === undefined ? volume.state : volume.hubs?.find((one) => one.hub === hub)?.state;
}

/** The links that may be why. */
function linksText(status: ProcessStatus, hub: string | undefined): string {
  const links = status.links ?? (status.link ? [status.link] : []);
  return links
    .filter(({ name }) => hub === undefined || name === hub)
    .map((link) => {
      const text = link.state === 'live' ? '' : `; hub ${linkName(link)} is ${link.state}`;
      return link.lastError === null ? text : `${text} (${link.lastError})`;
    })
    .join('');
}
