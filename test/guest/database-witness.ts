// What a guest with databases (jobs/database.sh) has committed, beside what agent and hub say of the replica at the same
// time: so that afterwards it is known which rows the replica promised to have. It must never count a row too early.
import type { VolumeStatus } from '../../src/control/status.ts';
import type { CliProcess } from '../support/cli.ts';
import { statusOf } from '../support/mirror-pair.ts';
import type { Guest } from './guest-vm.ts';

/** The databases of the job, by their journal modes. */
export const DATABASES = ['wal', 'delete'] as const;
export type Database = (typeof DATABASES)[number];
export type Rows = Readonly<Record<Database, number>>;

/** Rows that were committed before `atMs`, and what the agent said after that. */
export interface Sight {
  /** By performance.now(). */
  readonly atMs: number;
  readonly rows: Rows;
  readonly volume: VolumeStatus;
}

/** The last row of each database whose commit the guest has printed; 0: none. */
export function committedRows(console: string): Rows {
  const last = { wal: 0, delete: 0 };
  for (const [, name, row] of console.matchAll(/^committed (wal|delete) (\d+)$/gm)) {
    last[name as Database] = Number(row);
  }
  return last;
}

/** The only volume of a process. */
export async function volumeOf(process: CliProcess): Promise<VolumeStatus> {
  const { volumes } = await statusOf(process);
  if (volumes.length !== 1) throw new Error(`${volumes.length} volumes instead of one`);
  return volumes[0]!;
}

/** The rows first: what the agent says then was true when they were there. */
export async function look(guest: Guest, agent: CliProcess): Promise<Sight> {
  const rows = committedRows(guest.console());
  const atMs = performance.now();
  return { atMs, rows, volume: await volumeOf(agent) };
}

/** The rows that a replica has to have which is durable up to `sequence`. */
export function rowsUpTo(sights: readonly Sight[], sequence: number): Rows {
  return sights.findLast(({ volume }) => volume.sequence <= sequence)?.rows ?? { wal: 0, delete: 0 };
}

/** The rows that the agent has called durable at the hub when it was looked at last, by its lag. */
export function rowsByLag(sights: readonly Sight[]): Rows {
  const last = sights.at(-1);
  if (last?.volume.lagMs == null) throw new Error('the lag is not known');
  const durableAtMs = last.atMs - last.volume.lagMs;
  return sights.findLast(({ atMs }) => atMs <= durableAtMs)?.rows ?? { wal: 0, delete: 0 };
}
