// Decides from its header alone whether a request may reach the device, and with which error it is refused.
// It needs no payload, so a refused write is never buffered.
import { NBD_CMD, NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE, NBD_ERROR } from './constants.ts';
import type { RequestHeader } from './request.ts';

/** What one export allows to one connection. */
export interface RequestRules {
  /** Size as told in the handshake, bytes. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Offsets and lengths must be multiples of this, bytes; a power of two. */
  readonly minBlockBytes: number;
  /** Largest READ or WRITE, bytes. Commands without payload have no limit but the disk's size. */
  readonly maxPayloadBytes: number;
}

interface CommandRules {
  /** Flags the command may carry. FUA is fine on every one. */
  readonly flags: number;
  readonly changes: boolean;
  /** Carries data in the request or in its reply. */
  readonly payload: boolean;
  /** The error for a range that leaves the disk. */
  readonly pastEnd: number;
}

const FUA = NBD_CMD_FLAG_FUA;
const { EINVAL, ENOSPC } = NBD_ERROR;

/** By command type. FLUSH is a special case; DISC never gets here. */
const COMMANDS: ReadonlyArray<CommandRules | undefined> = commandTable([
  [NBD_CMD.READ, { flags: FUA, changes: false, payload: true, pastEnd: EINVAL }],
  [NBD_CMD.WRITE, { flags: FUA, changes: true, payload: true, pastEnd: ENOSPC }],
  [NBD_CMD.FLUSH, { flags: FUA, changes: false, payload: false, pastEnd: EINVAL }],
  [NBD_CMD.TRIM, { flags: FUA, changes: true, payload: false, pastEnd: EINVAL }],
  [NBD_CMD.CACHE, { flags: FUA, changes: false, payload: false, pastEnd: EINVAL }],
  [
    NBD_CMD.WRITE_ZEROES,
    { flags: FUA | NBD_CMD_FLAG_NO_HOLE, changes: true, payload: false, pastEnd: ENOSPC },
  ],
]);

/**
 * Judges a request. Zero lengths inside the disk pass: the spec leaves them open, and doing nothing well is easy.
 * @returns `NBD_ERROR.OK`, or the error to answer with (spec, "Error values")
 */
export function checkRequest(request: RequestHeader, rules: RequestRules): number {
  const command = COMMANDS[request.type];
  if (command === undefined || (request.flags & ~command.flags) !== 0) return EINVAL;
  const { offset, length } = request;
  // The spec reserves both fields of a flush: they must be zero.
  if (request.type === NBD_CMD.FLUSH) return offset === 0 && length === 0 ? NBD_ERROR.OK : EINVAL;
  if (command.changes && rules.readOnly) return NBD_ERROR.EPERM;
  if (command.payload && length > rules.maxPayloadBytes) return EINVAL;
  // Subtracting keeps this exact: a sum could leave the numbers that a double holds.
  if (offset > rules.sizeBytes || length > rules.sizeBytes - offset) return command.pastEnd;
  const unit = rules.minBlockBytes;
  if (unit > 1 && (offset % unit !== 0 || length % unit !== 0)) return EINVAL;
  return NBD_ERROR.OK;
}

function commandTable(rows: ReadonlyArray<[number, CommandRules]>): Array<CommandRules | undefined> {
  const table = new Array<CommandRules | undefined>(NBD_CMD.RESIZE + 1).fill(undefined);
  for (const [type, rules] of rows) table[type] = rules;
  return table;
}
