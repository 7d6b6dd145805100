// What a volume with replicas at several hubs says as a whole: what it says at the hub where it is worst off, so that
// "protected" means at every hub. The hubs by themselves stand beside it.
import type { HubVolumeStatus, VolumeState, VolumeStatus } from '../control/status.ts';

export interface AtHub {
  readonly hub: string;
  readonly address: string;
  /** The state of its link. */
  readonly link: string;
  readonly volume: VolumeStatus;
}

/**
 * From the worst on. A hub that has not followed the volume yet is as bad as one that doesn't any more: "unprotected" is
 * said of the whole only while it's true of every hub.
 */
const WORST_FIRST: readonly VolumeState[] = [
  'failed',
  'unprotected',
  'degraded',
  'initial-sync',
  'resync',
  'converging',
  'protected',
];

/** @param each one or more, of one volume */
export function combineHubs(each: readonly AtHub[]): VolumeStatus {
  const hubs = each.map(hubStatus);
  const [only] = each;
  if (each.length === 1) return { ...only!.volume, hubs };
  const worst = each.reduce((a, b) => (isWorse(b.volume, a.volume) ? b : a));
  const isNowhere = each.every(({ volume }) => volume.state === 'unprotected');
  const state = worst.volume.state === 'unprotected' && !isNowhere ? 'degraded' : worst.volume.state;
  const complaint = [worst, ...each].find(({ volume }) => volume.lastError !== null);
  const lastError = complaint ? `${complaint.hub}: ${complaint.volume.lastError}` : null;
  return { ...worst.volume, state, ...firstOf(each), lastError, hubs };
}

/** The first error at any hub, where errors are noted. */
function firstOf(each: readonly AtHub[]): Pick<VolumeStatus, 'firstError'> {
  const noted = each.flatMap(({ hub, volume: { firstError } }) => (firstError ? [{ hub, firstError }] : []));
  const [first] = noted.sort((a, b) => Date.parse(a.firstError.at) - Date.parse(b.firstError.at));
  if (!first) return {};
  return { firstError: { ...first.firstError, text: `${first.hub}: ${first.firstError.text}` } };
}

function hubStatus({ hub, address, link, volume }: AtHub): HubVolumeStatus {
  const { name, vmName, sizeBytes, paused, readOnly, hubs, ...status } = volume;
  return { hub, address, link, ...status };
}

/** By state, then by how much of a sync is left, then by age and amount of what the hub has not confirmed. */
function isWorse(a: VolumeStatus, b: VolumeStatus): boolean {
  return compare(badness(a), badness(b)) > 0;
}

function badness(volume: VolumeStatus): number[] {
  return [
    -WORST_FIRST.indexOf(volume.state),
    -(volume.syncPercent ?? -1),
    volume.lagMs ?? Number.POSITIVE_INFINITY,
    volume.sequence - volume.ackedSequence,
    volume.dirtyBytes,
  ];
}

/** In the order of a dictionary. */
function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at === -1 ? 0 : a[at]! - b[at]!;
}
