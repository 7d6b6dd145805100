// How a volume is named when several machines may have one of that name: as NAME, or as MACHINE/NAME.
import type { VolumeStatus } from './status.ts';

/** Whether `text` names this volume. */
export function isNamed(volume: Pick<VolumeStatus, 'name' | 'vmName'>, text: string): boolean {
  return volume.name === text || `${volume.vmName}/${volume.name}` === text;
}

/** The shortest name that means this volume alone among `all`. */
export function uniqueName(volume: VolumeStatus, all: readonly VolumeStatus[]): string {
  const same = all.filter((one) => one.name === volume.name);
  return same.length > 1 ? `${volume.vmName}/${volume.name}` : volume.name;
}
