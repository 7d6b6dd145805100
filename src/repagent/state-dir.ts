// What an agent keeps in its state directory: its id, and the dirty map of each volume. One agent at a time: two that
// wrote to one map would each undo what the other knows.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { errorCode, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { loadNativeCalls } from '../base/native-calls.ts';
import { safeName } from '../base/safe-name.ts';
import { loadAgentId } from './agent-id.ts';
import { DirtyMaps, type MapRequest } from './dirty-maps.ts';
import type { DirtySidecar } from './dirty-sidecar.ts';
import { openSidecarFile } from './sidecar-file.ts';
import type { ImageMark } from './sidecar-finding.ts';
import { MARK_BYTES } from './sidecar-head.ts';

const LOCK_FILE = 'lock';
const MAPS_FOLDER = 'maps';
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

/** A restarted process overlaps its predecessor for a moment, ms. */
const LOCK_PATIENCE_MS = 3000;
const LOCK_RETRY_MS = 50;

export interface AgentStateOptions {
  /** Created when missing. */
  readonly stateDir: string;
  /** Bytes of disk that one bit of a map stands for. */
  readonly granularityBytes?: number | undefined;
  /** Makes each new bit durable before its data is written. */
  readonly exact?: boolean | undefined;
  readonly logger: Logger;
}

export class AgentState {
  readonly agentId: Buffer;
  readonly #maps: DirtyMaps;
  readonly #lockFd: number;

  private constructor(options: AgentStateOptions, agentId: Buffer, lockFd: number) {
    this.agentId = agentId;
    this.#lockFd = lockFd;
    const { stateDir, granularityBytes, exact, logger } = options;
    const folder = path.join(stateDir, MAPS_FOLDER);
    this.#maps = new DirtyMaps({
      agentId,
      bootId: readBootId(),
      open: (volumeName) => {
        fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
        return openSidecarFile(path.join(folder, `${safeName(volumeName)}.map`));
      },
      granularityBytes,
      exact,
      logger,
    });
  }

  /** @throws OperationError when the directory can't be used, or another agent uses it */
  static async open(options: AgentStateOptions): Promise<AgentState> {
    const agentId = await loadAgentId(options.stateDir);
    const lockFd = await lock(options.stateDir);
    return new AgentState(options, agentId, lockFd);
  }

  /** Opens the map of a volume, whatever is there. @throws OperationError when its file can't be used */
  openMap(request: MapRequest): DirtySidecar {
    return this.#maps.openMap(request);
  }

  /** Lets another agent have the directory. */
  close(): void {
    fs.closeSync(this.#lockFd);
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
