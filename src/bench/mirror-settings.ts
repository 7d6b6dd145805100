// How the bench's mirrored server is to be built, and what it tells of its map: what mirror-server.ts and who starts it
// have in common. Pure.

/** The only export of each of our servers, and its replica. */
export const EXPORT = 'disk';

/**
 * Where the dirty map is: in `memory` alone; in a `file` too, each bit handed to the kernel before its data; `durable`:
 * each bit made durable before its data.
 */
export const MAP_KEEPINGS = ['memory', 'file', 'durable'] as const;
export type MapKeeping = (typeof MAP_KEEPINGS)[number];

export interface MirrorServerSettings {
  readonly image: string;
  readonly hubPort: number;
  readonly map: MapKeeping;
  /** The file of the map, unless it is in memory. */
  readonly mapFile: string;
  readonly granularityBytes: number;
}

/** What its statistics tell besides the agent's. */
export interface MapCounts {
  /** Calls that set one bit's byte in the file, and that made the file durable. */
  readonly bitWrites: number;
  readonly syncs: number;
}
