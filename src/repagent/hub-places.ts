// Where the dirty maps of each hub lie in an agent's state directory. A map is relative to one replica: which hub's it
// is must survive restarts, other addresses and another order of the hubs, or what it says would be said to the wrong one.
import { isRecord } from '../base/is-record.ts';

/** A hub as it was asked for. */
export interface HubName {
  /** What it is called: its address, unless it was given a name. */
  readonly name: string;
  /** HOST:PORT. */
  readonly address: string;
}

export interface HubPlace {
  /** Null: a directory of the time when there was only one hub. */
  readonly name: string | null;
  readonly address: string | null;
  /** In the state directory. */
  readonly folder: string;
}

export interface Assignment {
  /** One for each hub that was asked for, in their order. */
  readonly places: readonly HubPlace[];
  /** Of hubs that were not: their maps are not kept, so that they know less and less. The newest first. */
  readonly left: readonly HubPlace[];
  /** Whose maps are of no hub's any more and can go: there are too many. */
  readonly dropped: readonly HubPlace[];
}

/** The folder of the first hub that an agent ever had. */
export const FIRST_FOLDER = 'maps';

/** Places of hubs that are not asked for, kept in case they come back. */
const MAX_LEFT = 16;

const VERSION = 1;
const FOLDER = /^maps(-[1-9]\d{0,3})?$/;

/**
 * Finds the place of each hub: by its name, else by its address; a place without a name is the first hub's. Where one
 * hub has no place and one place has no hub, they belong together: the hub has moved, or another took its place, and the
 * hub's own record tells which. Any other hub is new.
 */
export function assignPlaces(known: readonly HubPlace[], asked: readonly HubName[]): Assignment {
  const free = new Set(known);
  const found = new Map<HubName, HubPlace>();
  const open = (): HubName[] => asked.filter((hub) => !found.has(hub));
  const take = (hub: HubName, place: HubPlace | undefined): void => {
    if (!place) return;
    free.delete(place);
    found.set(hub, place);
  };
  const search = (fits: (place: HubPlace) => boolean): HubPlace | undefined => [...free].find(fits);
  for (const hub of open())
    take(
      hub,
      search(({ name }) => name === hub.name),
    );
  for (const hub of open())
    take(
      hub,
      search(({ address }) => address === hub.address),
    );
  const [first, ...others] = open();
  if (first)
    take(
      first,
      search(({ name }) => name === null),
    );
  if (first && others.length === 0 && !found.has(first) && free.size === 1) take(first, [...free][0]);
  const taken = new Set(known.map(({ folder }) => folder));
  const places = asked.map(({ name, address }, at) => ({
    name,
    address,
    folder: found.get(asked[at]!)?.folder ?? newFolder(taken),
  }));
  const rest = [...free];
  return { places, left: rest.slice(0, MAX_LEFT), dropped: rest.slice(MAX_LEFT) };
}

function newFolder(taken: Set<string>): string {
  let folder = FIRST_FOLDER;
  for (let number = 2; taken.has(folder); number += 1) folder = `${FIRST_FOLDER}-${number}`;
  taken.add(folder);
  return folder;
}

export function encodePlaces({ places, left }: Pick<Assignment, 'places' | 'left'>): string {
  return `${JSON.stringify({ version: VERSION, hubs: [...places, ...left] }, undefined, 2)}\n`;
}

/** @returns undefined when that is not what {@link encodePlaces} made */
export function decodePlaces(text: string): HubPlace[] | undefined {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(content) || content.version !== VERSION || !Array.isArray(content.hubs)) return undefined;
  const places: HubPlace[] = [];
  for (const hub of content.hubs as readonly unknown[]) {
    if (!isRecord(hub)) return undefined;
    const { name, address, folder } = hub;
    if (!isText(name) || !isText(address) || typeof folder !== 'string' || !FOLDER.test(folder)) {
      return undefined;
    }
    if (places.some((one) => one.folder === folder)) return undefined;
    places.push({ name, address, folder });
  }
  return places;
}

/** Whether a name in the state directory is that of a hub's maps. */
export function isMapsFolder(name: string): boolean {
  return FOLDER.test(name);
}

function isText(value: unknown): value is string | null {
  return value === null || typeof value === 'string';
}
