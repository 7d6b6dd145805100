// BLOCK_STATUS: what contexts tell of a range, made fit for the wire, and its chunks. No descriptor is empty, none
// leaves the block grid, and no answer is longer than MAX_STATUS_RUNS.
import { fail } from '../base/assert.ts';
import { NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE } from './constants.ts';
import { chunkHeaderBytes, encodeChunkHeader, type ReplyStyle, writeUInt64 } from './reply.ts';
import type { RequestHeader } from './request.ts';
import {
  blockStatusExtStruct,
  blockStatusStruct,
  extentExtStruct,
  extentStruct,
} from './structured-layouts.ts';

/** A part of a range that a context says one thing about; the first begins where the request does. */
export interface StatusRun {
  /** Bytes, above 0. */
  readonly length: number;
  /** 32 bits, as the context defines them. */
  readonly flags: number;
}

/** Most descriptors of one chunk; what lies behind them the client asks for next. The spec allows 2^20. */
export const MAX_STATUS_RUNS = 16_384;

/** Collects the runs of one context: equal neighbours become one, and the request's end is never passed. */
export class StatusRuns {
  readonly #runs: StatusRun[] = [];
  readonly #max: number;
  #left: number;

  /** @param length of the request, bytes @param max descriptors that the client takes */
  constructor(length: number, max: number) {
    this.#left = length;
    this.#max = max;
  }

  get runs(): readonly StatusRun[] {
    return this.#runs;
  }

  /** @returns false when nothing more is wanted */
  add(length: number, flags: number): boolean {
    const fitting = Math.min(length, this.#left);
    if (fitting <= 0) return this.#left > 0;
    const last = this.#runs.at(-1);
    if (last?.flags === flags) {
      this.#runs[this.#runs.length - 1] = { length: last.length + fitting, flags };
    } else if (this.#runs.length === this.#max) {
      return false;
    } else {
      this.#runs.push({ length: fitting, flags });
    }
    this.#left -= fitting;
    return this.#left > 0;
  }
}

/**
 * The chunk of one context.
 * @param runs at least one, of at most MAX_STATUS_RUNS
 * @param last whether it ends the reply
 */
export function encodeBlockStatus(
  style: ReplyStyle,
  request: RequestHeader,
  contextId: number,
  runs: readonly StatusRun[],
  last: boolean,
): Buffer {
  if (runs.length === 0 || runs.length > MAX_STATUS_RUNS) fail(`${runs.length} runs of block status`);
  const extended = style === 'extended';
  const headBytes = extended ? blockStatusExtStruct.sizeBytes : blockStatusStruct.sizeBytes;
  const runBytes = extended ? extentExtStruct.sizeBytes : extentStruct.sizeBytes;
  const length = headBytes + runs.length * runBytes;
  const bytes = Buffer.allocUnsafe(chunkHeaderBytes(style) + length);
  const type = extended ? NBD_REPLY_TYPE.BLOCK_STATUS_EXT : NBD_REPLY_TYPE.BLOCK_STATUS;
  let at = encodeChunkHeader(style, bytes, 0, last ? NBD_REPLY_FLAG_DONE : 0, type, request, length);
  bytes.writeUInt32BE(contextId, at);
  if (extended) bytes.writeUInt32BE(runs.length, at + 4);
  at += headBytes;
  for (const run of runs) {
    if (extended) {
      writeUInt64(bytes, run.length, at);
      writeUInt64(bytes, run.flags, at + 8);
    } else {
      bytes.writeUInt32BE(run.length, at);
      bytes.writeUInt32BE(run.flags, at + 4);
    }
    at += runBytes;
  }
  return bytes;
}

/** What the payload of an extended BLOCK_STATUS asks for. */
export interface StatusFilter {
  /** Bytes of the disk. */
  readonly length: number;
  readonly contextIds: readonly number[];
}

/** Bytes of that payload without the ids, and of one id. */
export const STATUS_FILTER_BYTES = 8;
export const STATUS_FILTER_ID_BYTES = 4;

/** Decodes the payload: 64 bits of effect length, then ids; undefined when it asks for anything but some of `selected`, once. */
export function parseStatusFilter(payload: Buffer, selected: readonly number[]): StatusFilter | undefined {
  const ids = (payload.length - STATUS_FILTER_BYTES) / STATUS_FILTER_ID_BYTES;
  if (!Number.isInteger(ids) || ids < 1 || ids > selected.length) return undefined;
  const length = payload.readUInt32BE(0) * 2 ** 32 + payload.readUInt32BE(4);
  const contextIds: number[] = [];
  for (let i = 0; i < ids; i += 1) {
    const id = payload.readUInt32BE(STATUS_FILTER_BYTES + i * STATUS_FILTER_ID_BYTES);
    if (!selected.includes(id) || contextIds.includes(id)) return undefined;
    contextIds.push(id);
  }
  return { length, contextIds };
}
