// Prepares the folders of a state directory for the hubs of this start: each gets the maps that are its own, and the maps
// of hubs that are left out are told so before the first change that they will not know of.
import fs from 'node:fs';
import path from 'node:path';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { replaceFile, systemFiles } from '../base/small-files.ts';
import {
  assignPlaces,
  decodePlaces,
  encodePlaces,
  FIRST_FOLDER,
  type HubName,
  type HubPlace,
  isMapsFolder,
} from './hub-places.ts';
import { leaveMap } from './left-map.ts';
import { openSidecarFile } from './sidecar-file.ts';

const PLACES_FILE = 'hubs.json';

/**
 * To be called while the directory is locked.
 * @param asked at least one
 * @returns each hub's folder by the hub's name @throws OperationError when what is there can't be read or kept
 */
export async function prepareHubFolders(
  stateDir: string,
  asked: readonly HubName[],
  logger: Logger,
): Promise<ReadonlyMap<string, string>> {
  const file = path.join(stateDir, PLACES_FILE);
  try {
    const text = await systemFiles.read(file);
    const known = text === undefined ? unwritten(stateDir) : decodePlaces(text);
    if (!known) throw unclear(file, 'it holds something else than the places of hubs');
    const { places, left, dropped } = assignPlaces(known, asked);
    for (const { folder } of left) await leaveFolder(path.join(stateDir, folder));
    for (const { folder } of dropped)
      fs.rmSync(path.join(stateDir, folder), { recursive: true, force: true });
    const next = encodePlaces({ places, left });
    if (next !== text) await replaceFile(systemFiles, file, next);
    tell(logger, known, places, left);
    return new Map(places.map(({ name, folder }) => [name!, path.join(stateDir, folder)]));
  } catch (error) {
    if (error instanceof OperationError) throw error;
    throw new OperationError(`which hub's maps lie where can't be kept in ${file}: ${errorMessage(error)}`, {
      hint: 'name a directory that can be read and written with --state-dir',
      cause: error,
    });
  }
}

/** What is there when nothing says so: the folder of the only hub there was, or none yet. */
function unwritten(stateDir: string): HubPlace[] {
  const folders = fs.readdirSync(stateDir).filter(isMapsFolder);
  if (folders.some((folder) => folder !== FIRST_FOLDER)) {
    throw unclear(path.join(stateDir, PLACES_FILE), 'it is missing');
  }
  return folders.map((folder) => ({ name: null, address: null, folder }));
}

function unclear(file: string, why: string): OperationError {
  const folder = path.dirname(file);
  return new OperationError(`whose dirty maps are in ${folder} is not known: ${file}: ${why}`, {
    hint: `put it back, or remove the maps too; the volumes are then compared with their replicas: rm -r ${file} ${folder}/${FIRST_FOLDER}*`,
  });
}

async function leaveFolder(folder: string): Promise<void> {
  let names: string[];
  try {
    names = fs.readdirSync(folder);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  for (const name of names) if (name.endsWith('.map')) await leaveFile(path.join(folder, name));
}

/** A file that can't be told so must not stay. */
async function leaveFile(file: string): Promise<void> {
  try {
    const map = openSidecarFile(file);
    try {
      await leaveMap(map);
    } finally {
      map.close();
    }
  } catch {
    fs.rmSync(file);
    await systemFiles.sync(path.dirname(file));
  }
}

function tell(
  logger: Logger,
  known: readonly HubPlace[],
  places: readonly HubPlace[],
  left: readonly HubPlace[],
): void {
  const before = new Map(known.map(({ folder, name }) => [folder, name]));
  for (const { name, folder } of places) {
    const was = before.get(folder);
    if (was !== undefined && was !== null && was !== name) {
      logger.warn({ hub: name, before: was }, 'a hub takes the place of one of another name or address');
    }
  }
  const wasLeft = left.filter(({ folder }) => before.has(folder)).map(({ name }) => name);
  if (wasLeft.length > 0) {
    logger.info(
      { hubs: wasLeft },
      'hubs that this agent had before are left out; when they come back, all is compared',
    );
  }
}
