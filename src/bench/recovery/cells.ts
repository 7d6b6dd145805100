// What `bench --recovery` does, as data: which load runs, and what happens meanwhile. Pure.
import { unreachable } from '../../base/assert.ts';
import { UsageError } from '../../base/errors.ts';
import { KiB } from '../../base/limits.ts';
import type { SteadyLoad } from '../fio.ts';
import { globMatches, sizeText } from '../matrix.ts';

/**
 * How the hub goes away. `killed`: its process is ended by SIGKILL and started again. `stopped`: it stops in the middle
 * of everything and goes on later, which looks to the agent like a network that carries nothing.
 */
export type Absence = 'killed' | 'stopped';

/** The hub goes away and comes back under a load. */
export interface OutageCell {
  readonly kind: 'outage';
  readonly load: SteadyLoad;
  readonly absence: Absence;
}

/** Nothing happens: how far behind is the replica? */
export interface LagCell {
  readonly kind: 'lag';
  readonly load: SteadyLoad;
}

/** What it costs that the dirty map is kept in a file: servers that differ in that alone, in turn. */
export interface MapCell {
  readonly kind: 'map';
  readonly load: SteadyLoad;
  /** Bytes of disk that one bit stands for. The smaller they are, the more writes set a new bit. */
  readonly chunkBytes: number;
}

export type RecoveryCell = OutageCell | LagCell | MapCell;

/** Requests in flight of a load that has a rate: enough to keep to it. */
const PACED_DEPTH = 8;

const paced = (access: SteadyLoad['access'], blockBytes: number, iops: number): SteadyLoad => ({
  ...{ access, blockBytes, iops },
  depth: PACED_DEPTH,
});

const BUSY: SteadyLoad = { access: 'randwrite', blockBytes: 4 * KiB, depth: 32, iops: undefined };

/**
 * Outages: scattered small writes, of which each costs a whole chunk of the map; the map's own chunks; writes in a row;
 * and a silent network. Lags: rates that the hub's disk can follow, and as much as there can be.
 * Maps: the default, and one of as many chunks as a disk sixteen times as large has by default.
 */
export const RECOVERY_CELLS: readonly RecoveryCell[] = [
  { kind: 'outage', load: paced('randwrite', 4 * KiB, 1000), absence: 'killed' },
  { kind: 'outage', load: paced('randwrite', 64 * KiB, 200), absence: 'killed' },
  { kind: 'outage', load: paced('write', 256 * KiB, 50), absence: 'killed' },
  { kind: 'outage', load: paced('randwrite', 4 * KiB, 1000), absence: 'stopped' },
  { kind: 'lag', load: paced('randwrite', 4 * KiB, 1000) },
  { kind: 'lag', load: paced('randwrite', 4 * KiB, 5000) },
  { kind: 'lag', load: paced('write', 256 * KiB, 200) },
  { kind: 'lag', load: BUSY },
  { kind: 'map', load: BUSY, chunkBytes: 64 * KiB },
  { kind: 'map', load: BUSY, chunkBytes: 4 * KiB },
];

/** `outage-4k-randwrite-1000iops-killed`, `lag-4k-randwrite-qd32`, `map-4k-randwrite-qd32-64k`. */
export function recoveryCellId(cell: RecoveryCell): string {
  const { access, blockBytes, depth, iops } = cell.load;
  const pace = iops === undefined ? `qd${depth}` : `${iops}iops`;
  const id = [cell.kind, sizeText(blockBytes), access, pace].join('-');
  switch (cell.kind) {
    case 'outage':
      return `${id}-${cell.absence}`;
    case 'lag':
      return id;
    case 'map':
      return `${id}-${sizeText(cell.chunkBytes)}`;
    default:
      return unreachable(cell, 'cell');
  }
}

/**
 * @param patterns ids, in which `*` stands for anything; none takes all
 * @throws UsageError for a pattern that finds nothing
 */
export function selectRecoveryCells(patterns: readonly string[]): RecoveryCell[] {
  for (const pattern of patterns) {
    if (RECOVERY_CELLS.some((cell) => globMatches(pattern, recoveryCellId(cell)))) continue;
    const known = RECOVERY_CELLS.map(recoveryCellId).join(', ');
    throw new UsageError(`--cell: ${JSON.stringify(pattern)} is none of ${known}`);
  }
  if (patterns.length === 0) return [...RECOVERY_CELLS];
  return RECOVERY_CELLS.filter((cell) => patterns.some((one) => globMatches(one, recoveryCellId(cell))));
}
