// The cells of the bench as data: what is measured, how each is called, and which presets there are. Pure.
import { UsageError } from '../base/errors.ts';
import { KiB, MiB } from '../base/limits.ts';

/** As fio names them; `read` and `write` are sequential. */
export type Access = 'randread' | 'randwrite' | 'randrw' | 'read' | 'write';
export type Storage = 'tmpfs' | 'disk';

/** What a server has to be started for. */
export interface Circumstances {
  readonly storage: Storage;
  /** `cold`: the image has been dropped from the page cache before each round. */
  readonly cache: 'warm' | 'cold';
  readonly tls: boolean;
  /** Pass-through filters between server and disk. */
  readonly chain: number;
  /** Every write is copied to a second process that keeps a replica. */
  readonly mirror: boolean;
  /** So many images, each with a client of its own, and as many worker processes; 0: one image, no workers. */
  readonly workers: number;
  /** Clients come through a unix socket instead of TCP. */
  readonly unix: boolean;
}

/** One cell: a load, and the circumstances under which servers bear it. */
export interface Cell extends Circumstances {
  readonly access: Access;
  readonly blockBytes: number;
  /** Requests in flight on each connection. */
  readonly depth: number;
  /** To each image. */
  readonly connections: number;
}

interface Operation {
  readonly access: Access;
  readonly blockBytes: number;
}

const OPERATIONS: readonly Operation[] = [
  { access: 'randread', blockBytes: 4 * KiB },
  { access: 'randwrite', blockBytes: 4 * KiB },
  { access: 'randrw', blockBytes: 4 * KiB },
  { access: 'read', blockBytes: 64 * KiB },
  { access: 'write', blockBytes: 64 * KiB },
  { access: 'read', blockBytes: 256 * KiB },
  { access: 'write', blockBytes: 256 * KiB },
  { access: 'read', blockBytes: MiB },
  { access: 'write', blockBytes: MiB },
];
const COLD_FACTOR = 4;
const DEPTHS = [1, 8, 32, 128] as const;
const CONNECTIONS = [1, 4] as const;
/** Beside none. */
const CHAINS = [3, 6] as const;

const PLAIN = {
  depth: 1,
  connections: 1,
  storage: 'tmpfs',
  cache: 'warm',
  tls: false,
  chain: 0,
  mirror: false,
  workers: 0,
  unix: false,
} as const;

/**
 * `4k-randread-qd32`, then whatever is unusual: `-c4`, `-disk`, `-cold`, `-tls`, `-chain3`, `-mirror`, `-w2`,
 * `-unix`.
 */
export function cellId(cell: Cell): string {
  return [
    sizeText(cell.blockBytes),
    cell.access,
    `qd${cell.depth}`,
    ...(cell.connections === 1 ? [] : [`c${cell.connections}`]),
    ...(cell.storage === 'tmpfs' ? [] : [cell.storage]),
    ...(cell.cache === 'warm' ? [] : [cell.cache]),
    ...(cell.tls ? ['tls'] : []),
    ...(cell.chain === 0 ? [] : [`chain${cell.chain}`]),
    ...(cell.mirror ? ['mirror'] : []),
    ...(cell.workers === 0 ? [] : [`w${cell.workers}`]),
    ...(cell.unix ? ['unix'] : []),
  ].join('-');
}

/** `4k`, `1m`. @param bytes whole KiB, and whole MiB from one on */
export function sizeText(bytes: number): string {
  return bytes >= MiB ? `${bytes / MiB}m` : `${bytes / KiB}k`;
}

/** Whether the load changes the disk. */
export function changesDisk(cell: Cell): boolean {
  return cell.access !== 'read' && cell.access !== 'randread';
}

/** Small requests one at a time and many, and large ones in a row. */
const BASIC_CELLS: readonly Cell[] = [
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 1 },
  { ...PLAIN, access: 'randwrite', blockBytes: 4 * KiB, depth: 1 },
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 32 },
  { ...PLAIN, access: 'randwrite', blockBytes: 4 * KiB, depth: 32 },
  { ...PLAIN, access: 'read', blockBytes: 256 * KiB, depth: 8 },
  { ...PLAIN, access: 'write', blockBytes: 256 * KiB, depth: 8 },
];

/** A few minutes: the basic loads, two of them with mirroring, and one or two for each thing that may cost speed. */
export const QUICK_CELLS: readonly Cell[] = [
  ...BASIC_CELLS,
  { ...PLAIN, access: 'randwrite', blockBytes: 4 * KiB, depth: 32, mirror: true },
  { ...PLAIN, access: 'write', blockBytes: 256 * KiB, depth: 8, mirror: true },
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 32, storage: 'disk', cache: 'cold' },
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 32, tls: true },
  { ...PLAIN, access: 'read', blockBytes: 256 * KiB, depth: 8, tls: true },
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 32, chain: 6 },
  { ...PLAIN, access: 'randread', blockBytes: 4 * KiB, depth: 32, workers: 2 },
  { ...PLAIN, access: 'read', blockBytes: 256 * KiB, depth: 8, unix: true },
];

/** The basic loads through TLS. */
export const TLS_CELLS: readonly Cell[] = BASIC_CELLS.map((cell) => ({ ...cell, tls: true }));

/** Every load on tmpfs, and on the other axes the loads that they matter to. Takes hours. */
export const FULL_CELLS: readonly Cell[] = [
  ...OPERATIONS.flatMap((operation) =>
    DEPTHS.flatMap((depth) =>
      CONNECTIONS.map((connections) => ({ ...PLAIN, ...operation, depth, connections })),
    ),
  ),
  ...OPERATIONS.flatMap((operation) =>
    [1, 32].map((depth) => ({ ...PLAIN, ...operation, depth, storage: 'disk' as const })),
  ),
  ...OPERATIONS.filter(({ access }) => access === 'randread' || access === 'read').flatMap((operation) =>
    DEPTHS.map((depth) => ({
      ...PLAIN,
      ...operation,
      depth,
      storage: 'disk' as const,
      cache: 'cold' as const,
    })),
  ),
  ...TLS_CELLS,
  ...BASIC_CELLS.flatMap((cell) => CHAINS.map((chain) => ({ ...cell, chain }))),
  ...BASIC_CELLS.map((cell) => ({ ...cell, workers: 2 })),
  ...BASIC_CELLS.map((cell) => ({ ...cell, unix: true })),
  ...OPERATIONS.filter((operation) => changesDisk({ ...PLAIN, ...operation })).flatMap((operation) =>
    [1, 8, 32].map((depth) => ({ ...PLAIN, ...operation, depth, mirror: true })),
  ),
];

const CELL_ID =
  /^(\d+)([km])-(randread|randwrite|randrw|read|write)-qd(\d+)(?:-c(\d+))?(?:-(disk))?(?:-(cold))?(-tls)?(?:-chain(\d+))?(-mirror)?(?:-w(\d+))?(-unix)?$/;

/** The cell of an id as {@link cellId} writes it, also one of no preset; undefined when it is none. */
export function parseCellId(id: string): Cell | undefined {
  const match = CELL_ID.exec(id);
  if (!match) return undefined;
  const [, size, unit, access, depth, connections, disk, cold, tls, chain, mirror, workers, unix] = match;
  const cell: Cell = {
    access: access as Access,
    blockBytes: Number(size) * (unit === 'm' ? MiB : KiB),
    depth: Number(depth),
    connections: Number(connections ?? 1),
    storage: disk === undefined ? 'tmpfs' : 'disk',
    cache: cold === undefined ? 'warm' : 'cold',
    tls: tls !== undefined,
    chain: Number(chain ?? 0),
    mirror: mirror !== undefined,
    workers: Number(workers ?? 0),
    unix: unix !== undefined,
  };
  return isPossible(cell) ? cell : undefined;
}

/** What memory holds is never cold, a mirror copies writes, and counts have limits. */
function isPossible(cell: Cell): boolean {
  const { blockBytes, depth, connections, chain, workers } = cell;
  if (cell.cache === 'cold' && cell.storage !== 'disk') return false;
  if (cell.mirror && (!changesDisk(cell) || cell.tls || chain > 0 || workers > 0)) return false;
  if (workers === 1 || workers > 16) return false;
  if (cell.unix && (cell.tls || cell.mirror)) return false;
  const inRange = (value: number, max: number): boolean => value >= 1 && value <= max;
  return inRange(blockBytes, 32 * MiB) && inRange(depth, 1024) && inRange(connections, 64) && chain <= 32;
}

/**
 * The cells of a preset that match, or that are named outright.
 * @param patterns ids, or ids with `*`; none takes the whole preset
 * @throws UsageError for a pattern that finds nothing
 */
export function selectCells(preset: readonly Cell[], patterns: readonly string[]): Cell[] {
  if (patterns.length === 0) return [...new Map(preset.map((cell) => [cellId(cell), cell])).values()];
  const everything = [...preset, ...FULL_CELLS];
  const chosen = new Map<string, Cell>();
  for (const pattern of patterns) {
    const exact = parseCellId(pattern);
    const within = preset.filter((cell) => globMatches(pattern, cellId(cell)));
    const found = exact
      ? [exact]
      : within.length > 0
        ? within
        : everything.filter((cell) => globMatches(pattern, cellId(cell)));
    if (found.length === 0) {
      const example = QUICK_CELLS.slice(0, 3).map(cellId).join(', ');
      throw new UsageError(
        `--cell: ${JSON.stringify(pattern)} is no cell; cells are called ${example}, and * stands for anything`,
      );
    }
    for (const cell of found) chosen.set(cellId(cell), cell);
  }
  return [...chosen.values()];
}

/** Whether an id is as the pattern says, in which `*` stands for anything. */
export function globMatches(pattern: string, id: string): boolean {
  const source = pattern
    .split('*')
    .map((part) => part.replace(/[^\w-]/g, '\\$&'))
    .join('.*');
  return new RegExp(`^${source}$`).test(id);
}

/** What servers must be started anew for: cells of one key share their servers and images. */
export function bedKey({ storage, cache, tls, chain, mirror, workers, unix }: Circumstances): string {
  return [
    ...[cache === 'cold' ? 'disk cold' : storage, tls ? 'tls' : 'plain', `chain${chain}`],
    ...[
      mirror ? 'mirror' : 'alone',
      ...(workers === 0 ? [] : [`workers${workers}`]),
      ...(unix ? ['unix'] : []),
    ],
  ].join(' ');
}

/** How large the images of a cell are: what is read once must not be all in the cache before a round ends. */
export function imageBytes({ cache }: Circumstances, sizeBytes: number): number {
  return cache === 'cold' ? sizeBytes * COLD_FACTOR : sizeBytes;
}

/** Of what is measured with TLS, filters, mirroring or a unix socket the cell without; undefined for a plain cell. */
export function plainCell(cell: Cell): Cell | undefined {
  if (!cell.tls && cell.chain === 0 && !cell.mirror && !cell.unix) return undefined;
  return { ...cell, tls: false, chain: 0, mirror: false, unix: false };
}
