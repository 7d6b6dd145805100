// What a scale run measures: how many agents with how many volumes of which size, and how many of those are written to.
import { UsageError } from '../../base/errors.ts';
import { GiB, TiB } from '../../base/limits.ts';
import { globMatches } from '../matrix.ts';

export interface ScaleCell {
  readonly id: string;
  /** One is a process of its own, `repagent serve`; many share one process, each with its own connection. */
  readonly agents: number;
  /** Of each agent. */
  readonly volumes: number;
  /** Of each volume. */
  readonly sizeBytes: number;
  /** Volumes that are written to at a time. */
  readonly busy: number;
  /** Writes a second to each of them; undefined: as many as there can be, one at a time. */
  readonly iops: number | undefined;
  /** About how long until everything is protected. */
  readonly startSeconds: number;
}

const volumes = (id: string, count: number, sizeBytes: number, startSeconds: number): ScaleCell => ({
  ...{ id, agents: 1, volumes: count, sizeBytes, busy: 1, iops: undefined, startSeconds },
});
const busyVolumes = (id: string, count: number, startSeconds: number): ScaleCell => ({
  ...{ id, agents: 1, volumes: count, sizeBytes: GiB, busy: 100, iops: 50, startSeconds },
});

export const SCALE_CELLS: readonly ScaleCell[] = [
  volumes('1x1g', 1, GiB, 4),
  volumes('100x1g', 100, GiB, 6),
  volumes('1000x1g', 1000, GiB, 30),
  volumes('1x16t', 1, 16 * TiB, 15),
  busyVolumes('100x1g-100busy', 100, 6),
  busyVolumes('1100x1g-100busy', 1100, 32),
  { id: '500agents', agents: 500, volumes: 1, sizeBytes: GiB, busy: 500, iops: 1, startSeconds: 15 },
];

/**
 * @param patterns ids, in which `*` stands for anything; none takes all
 * @throws UsageError for a pattern that finds nothing
 */
export function selectScaleCells(patterns: readonly string[]): ScaleCell[] {
  for (const pattern of patterns) {
    if (SCALE_CELLS.some(({ id }) => globMatches(pattern, id))) continue;
    const known = SCALE_CELLS.map(({ id }) => id).join(', ');
    throw new UsageError(`--cell: ${JSON.stringify(pattern)} is none of ${known}`);
  }
  if (patterns.length === 0) return [...SCALE_CELLS];
  return SCALE_CELLS.filter(({ id }) => patterns.some((one) => globMatches(one, id)));
}

/** For which the CPU time at rest is looked at: it comes in ticks of 10 ms. */
export const REST_SECONDS = 3;
/** What a cell takes besides its start, its rest and the load itself. */
export const AROUND_LOAD_SECONDS = 4;

/** About how long it takes. @param seconds of load in each cell */
export function scaleSeconds(cells: readonly ScaleCell[], seconds: number): number {
  const each = REST_SECONDS + seconds + AROUND_LOAD_SECONDS;
  return cells.reduce((sum, cell) => sum + cell.startSeconds + each, 0);
}
