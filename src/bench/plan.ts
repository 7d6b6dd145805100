// What a run is going to do, and how long that takes. Pure.
import { bedKey, type Cell } from './matrix.ts';
import type { ServerKind } from './server.ts';

/** What starting and reporting cost fio for each measurement, and servers for each group of cells, seconds. */
const FIO_OVERHEAD_SECONDS = 0.7;
const LOAD_OVERHEAD_SECONDS = 0.9;
const START_SECONDS = 2.5;
/** Before the rounds of a cell, each server bears its load for so long, uncounted: caches fill, code gets compiled. */
export const WARM_UP_SECONDS = 0.5;

export interface BedPlan {
  readonly key: string;
  readonly cells: readonly Cell[];
  readonly kinds: readonly ServerKind[];
}

/** Groups cells that can share their running servers, in the order of the first of each group. */
export function planBeds(cells: readonly Cell[], kinds: readonly ServerKind[]): BedPlan[] {
  const groups = new Map<string, Cell[]>();
  for (const cell of cells) {
    const group = groups.get(bedKey(cell));
    if (group) group.push(cell);
    else groups.set(bedKey(cell), [cell]);
  }
  return [...groups].map(([key, group]) => ({
    key,
    cells: group,
    kinds: kinds.filter((kind) => group.some((cell) => kind.suits(cell))),
  }));
}

/** Floors take part in every other round: they don't decide a comparison. */
export function takesPart(kind: ServerKind, cell: Cell, round: number): boolean {
  return kind.suits(cell) && (kind.role !== 'floor' || round % 2 === 0);
}

/** How long one measurement takes, seconds. */
export function measureSeconds(kind: ServerKind, seconds: number): number {
  return seconds + (kind.name === 'loopback' ? LOAD_OVERHEAD_SECONDS : FIO_OVERHEAD_SECONDS);
}

export function bedSeconds(plan: BedPlan, rounds: number, seconds: number): number {
  let total = plan.kinds.length * START_SECONDS;
  for (const cell of plan.cells) {
    for (const kind of plan.kinds.filter((one) => one.suits(cell))) {
      if (kind.role !== 'floor') total += measureSeconds(kind, WARM_UP_SECONDS);
      for (let round = 0; round < rounds; round += 1) {
        if (takesPart(kind, cell, round)) total += measureSeconds(kind, seconds);
      }
    }
  }
  return total;
}
