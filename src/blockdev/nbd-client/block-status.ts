// Tells the allocation of a range by BLOCK_STATUS. Advisory: what the server doesn't say is data, and nothing is kept,
// since whatever was true may have changed with the next write.
import { BlockError } from '../../base/errors.ts';
import { GiB, TiB } from '../../base/limits.ts';
import { NBD_STATE_HOLE, NBD_STATE_ZERO } from '../../nbdwire/constants.ts';
import { MAX_STATUS_EXTENTS, StatusList } from '../../nbdwire/status-list.ts';
import type { Extent } from '../block-device.ts';
import { ExtentList } from '../extent-list.ts';

/** Requests that one call may cost; servers answer with a part when the whole would be long. */
export const MAX_STATUS_REQUESTS = 64;

/** Largest range of one request: below 2^32, and with extended headers what the protocol's numbers bear. */
const COMPACT_BYTES = 2 * GiB;
const EXTENDED_BYTES = 4096 * TiB;

export type AskStatus = (offset: number, length: number, status: StatusList) => Promise<void>;

export interface StatusQuery {
  readonly offset: number;
  readonly length: number;
  /** Extents that the caller has use for. */
  readonly maxExtents: number;
  /** Whether lengths may exceed 32 bits. */
  readonly extended: boolean;
}

/**
 * The extents of a range, as far as the server tells them in time; the last may be `unknown`.
 * @throws BlockError when the device or the link to its server is closed, or away for too long
 */
export async function queryExtents(ask: AskStatus, query: StatusQuery): Promise<Extent[]> {
  const { offset, length, extended } = query;
  const most = Math.min(query.maxExtents, MAX_STATUS_EXTENTS);
  const atOnce = extended ? EXTENDED_BYTES : COMPACT_BYTES;
  const list = new ExtentList(offset, length);
  const status = new StatusList();
  const end = offset + length;
  for (let requests = 0; list.at < end && list.count < most; requests += 1) {
    if (requests === MAX_STATUS_REQUESTS) break;
    const asked = Math.min(end - list.at, atOnce);
    if (!(await answered(ask, list.at, asked, status))) break;
    take(status, list);
  }
  return list.giveUp();
}

async function answered(
  ask: AskStatus,
  offset: number,
  length: number,
  status: StatusList,
): Promise<boolean> {
  try {
    await ask(offset, length, status);
    return true;
  } catch (error) {
    // The server can't or won't tell; whether it is gone for good, the next read or write will show.
    if (error instanceof BlockError && error.code !== 'ESHUTDOWN') return false;
    throw error;
  }
}

function take(status: StatusList, list: ExtentList): void {
  for (let i = 0; i < status.count; i += 1) {
    const flags = status.flagsOf(i);
    const end = list.at + status.lengthOf(i);
    list.addUntil(end, (flags & NBD_STATE_HOLE) !== 0, (flags & NBD_STATE_ZERO) !== 0);
  }
}
