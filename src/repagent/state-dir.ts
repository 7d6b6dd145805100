// What an agent keeps in its state directory: its id, and for each hub the dirty map of each volume. One agent at a time:
// two that wrote to one map would each undo what the other knows.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { assert } from '../base/assert.ts';
import { errorCode, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { loadNativeCalls } from '../base/native-calls.ts';
import { safeName } from '../base/safe-name.ts';
import { loadAgentId } from './agent-id.ts';
import { DirtyMaps, type MapRequest } from './dirty-maps.ts';
import type { DirtySidecar } from './dirty-sidecar.ts';
import { prepareHubFolders } from './hub-folders.ts';
import { FIRST_FOLDER, type HubName } from './hub-places.ts';
import { openSidecarFile } from './sidecar-file.ts';
import type { ImageMark } from './sidecar-finding.ts';
import { MARK_BYTES } from './sidecar-head.ts';

const LOCK_FILE = 'lock';
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

/** A restarted process overlaps its predecessor for a moment, ms. */
const LOCK_PATIENCE_MS = 3000;
const LOCK_RETRY_MS = 50;

/** How maps are kept. */
export interface MapOptions {
  /** Bytes of disk that one bit of a map stands for. */
  readonly granularityBytes?: number | undefined;
  /** Makes each new bit durable before its data is written. */
  readonly exact?: boolean | undefined;
  readonly logger: Logger;
}

export interface AgentStateOptions extends MapOptions {
  /** Created when missing. */
  readonly stateDir: string;
  /** The hubs of this start, each with maps of its own; one that has no name unless given. */
  readonly hubs?: readonly HubName[] | undefined;
}

/** Opens maps of volumes, whatever is there. */
export interface MapKeeper {
  /** @throws OperationError when its file can't be used */
  openMap(request: MapRequest): DirtySidecar;
}

/** Where the maps of an agent lie, once that is settled. Structured cloning keeps all of it. */
export interface AgentPlaces {
  /** 16 bytes. */
  readonly agentId: Buffer;
  /** By hub. */
  readonly folders: ReadonlyMap<string, string>;
}

/** The maps of an agent whose state directory is locked, by this process or one that it belongs to. */
export class AgentMaps {
  readonly places: AgentPlaces;
  readonly #options: MapOptions;
  readonly #bootId = readBootId();

  constructor(places: AgentPlaces, options: MapOptions) {
    this.places = places;
    this.#options = options;
  }

  get agentId(): Buffer {
    return this.places.agentId;
  }

  /** The maps of one of the hubs. @param hub its name */
  mapsOf(hub: string): MapKeeper {
    const folder = this.places.folders.get(hub);
    assert(folder !== undefined, `there is no place for the maps of ${hub}`);
    return this.mapsIn(folder);
  }

  protected mapsIn(folder: string): DirtyMaps {
    const { granularityBytes, exact, logger } = this.#options;
    return new DirtyMaps({
      agentId: this.agentId,
      bootId: this.#bootId,
      open: (volumeName) => {
        fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
        return openSidecarFile(path.join(folder, `${safeName(volumeName)}.map`));
      },
      granularityBytes,
      exact,
      logger,
    });
  }
}

export class AgentState extends AgentMaps implements MapKeeper {
  readonly #stateDir: string;
  /** The lock is its own, and of whoever inherits it: it ends with the last of them. */
  readonly lockFd: number;

  private constructor(options: AgentStateOptions, places: AgentPlaces, lockFd: number) {
    super(places, options);
    this.#stateDir = options.stateDir;
    this.lockFd = lockFd;
  }

  /** @throws OperationError when the directory can't be used, or another agent uses it */
  static async open(options: AgentStateOptions): Promise<AgentState> {
    const { stateDir, hubs, logger } = options;
    const agentId = await loadAgentId(stateDir);
    const lockFd = await lock(stateDir);
    try {
      const folders = hubs ? await prepareHubFolders(stateDir, hubs, logger) : new Map<string, string>();
      return new AgentState(options, { agentId, folders }, lockFd);
    } catch (error) {
      fs.closeSync(lockFd);
      throw error;
    }
  }

  /** Of the only hub, when hubs have no names. @throws OperationError when its file can't be used */
  openMap(request: MapRequest): DirtySidecar {
    return this.mapsIn(path.join(this.#stateDir, FIRST_FOLDER)).openMap(request);
  }

  /** Lets another agent have the directory. */
  close(): void {
    fs.closeSync(this.lockFd);
  }
}

/** 16 bytes that are the same until the machine starts again. Where that can't be told, none are: nothing is believed. */
function readBootId(): Buffer {
  const none = Buffer.from(`${process.pid}${process.hrtime.bigint()}`.padEnd(16).slice(0, 16));
  try {
    const hex = fs.readFileSync(BOOT_ID_FILE, 'latin1').trim().replaceAll('-', '');
    return /^[0-9a-f]{32}$/.test(hex) ? Buffer.from(hex, 'hex') : none;
  } catch {
    return none;
  }
}

async function lock(stateDir: string): Promise<number> {
  const file = path.join(stateDir, LOCK_FILE);
  const fd = fs.openSync(file, fs.constants.O_RDWR + fs.constants.O_CREAT, 0o600);
  const native = loadNativeCalls();
  const deadline = performance.now() + LOCK_PATIENCE_MS;
  while (native) {
    const refused = native.flock(fd, 'exclusive');
    if (refused === undefined) break;
    if (refused !== 'EAGAIN' || performance.now() > deadline) {
      fs.closeSync(fd);
      throw new OperationError(`${stateDir}: another agent uses this state directory`, {
        hint: 'end that agent, or give this one a directory of its own with --state-dir',
      });
    }
    await pause(LOCK_RETRY_MS);
  }
  return fd;
}

/** The state of an image file, for the map beside it. Undefined for what has no such state, or isn't there. */
export function imageMark(file: string): ImageMark | undefined {
  try {
    const stat = fs.statSync(file, { bigint: true });
    if (!stat.isFile()) return undefined;
    const mark = Buffer.alloc(32);
    mark.writeBigUInt64LE(stat.ino, 0);
    mark.writeBigUInt64LE(stat.size, 8);
    mark.writeBigUInt64LE(BigInt.asUintN(64, stat.mtimeNs), 16);
    mark.writeBigUInt64LE(BigInt.asUintN(64, stat.birthtimeNs), 24);
    const digest = createHash('sha256').update(mark).digest();
    return { mark: digest.subarray(0, MARK_BYTES), changedAtMs: Number(stat.mtimeMs) };
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    return undefined;
  }
}
