// Decides from its header alone whether a request may reach the device, and with which error it is refused.
// It needs no payload, so a refused write is never buffered.
import {
  NBD_CMD,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_ERROR,
  nameOf,
} from './constants.ts';
import type { ReplyStyle } from './reply.ts';
import type { RequestHeader } from './request.ts';

/** What one export allows. */
export interface ExportRules {
  /** Size as told in the handshake, bytes. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Offsets and lengths must be multiples of this, bytes; a power of two. */
  readonly minBlockBytes: number;
  /** Largest READ or WRITE, bytes. Commands without payload have no limit but the disk's size. */
  readonly maxPayloadBytes: number;
  /** When zeroing is faster than writing zeroes: never, only where a hole may be left, or always. */
  readonly fastZero: 'never' | 'holes' | 'always';
}

/** What an export allows to one connection. */
export interface RequestRules extends ExportRules {
  readonly style: ReplyStyle;
  /** Ids of the meta contexts that were selected. */
  readonly contexts: readonly number[];
}

interface CommandRules {
  /** Flags that the command may carry. FUA is fine on every one. */
  readonly flags: number;
  readonly changes: boolean;
  /** Carries data in the request or in its reply. */
  readonly payload: boolean;
  /** The error for a range that leaves the disk. */
  readonly pastEnd: number;
}

type CommandTable = ReadonlyArray<CommandRules | undefined>;

const FUA = NBD_CMD_FLAG_FUA;
const PAYLOAD = NBD_CMD_FLAG_PAYLOAD_LEN;
const { EINVAL, ENOSPC, EOVERFLOW, ENOTSUP } = NBD_ERROR;

const READ: CommandRules = { flags: FUA, changes: false, payload: true, pastEnd: EINVAL };
const WRITE: CommandRules = { flags: FUA, changes: true, payload: true, pastEnd: ENOSPC };
const STATUS: CommandRules = {
  flags: FUA | NBD_CMD_FLAG_REQ_ONE,
  changes: false,
  payload: false,
  pastEnd: EINVAL,
};
const ZERO_FLAGS = FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;

/** By command type. FLUSH is a special case; DISC never gets here. */
const SIMPLE = commandTable([
  [NBD_CMD.READ, READ],
  [NBD_CMD.WRITE, WRITE],
  [NBD_CMD.FLUSH, { flags: FUA, changes: false, payload: false, pastEnd: EINVAL }],
  [NBD_CMD.TRIM, { flags: FUA, changes: true, payload: false, pastEnd: EINVAL }],
  [NBD_CMD.CACHE, { flags: FUA, changes: false, payload: false, pastEnd: EINVAL }],
  [NBD_CMD.WRITE_ZEROES, { flags: ZERO_FLAGS, changes: true, payload: false, pastEnd: ENOSPC }],
]);
const STRUCTURED = commandTable([
  [NBD_CMD.READ, { ...READ, flags: FUA | NBD_CMD_FLAG_DF }],
  [NBD_CMD.BLOCK_STATUS, STATUS],
]);
const EXTENDED = commandTable([
  [NBD_CMD.READ, { ...READ, flags: FUA | NBD_CMD_FLAG_DF }],
  [NBD_CMD.WRITE, { ...WRITE, flags: FUA | PAYLOAD }],
  [NBD_CMD.BLOCK_STATUS, { ...STATUS, flags: STATUS.flags | PAYLOAD }],
]);

const COMMANDS: Readonly<Record<ReplyStyle, CommandTable>> = {
  simple: SIMPLE,
  structured: SIMPLE.map((row, type) => STRUCTURED[type] ?? row),
  extended: SIMPLE.map((row, type) => EXTENDED[type] ?? row),
};

/**
 * Judges a request. Zero lengths inside the disk pass where doing nothing well is possible: the spec leaves them open.
 * @returns `NBD_ERROR.OK`, or the error to answer with (spec, "Error values")
 */
export function checkRequest(request: RequestHeader, rules: RequestRules): number {
  const command = COMMANDS[rules.style][request.type];
  if (command === undefined || (request.flags & ~command.flags) !== 0) return EINVAL;
  const { type, offset, length } = request;
  if (rules.style === 'extended' && isBareWrite(request)) return EINVAL;
  // The spec reserves both fields of a flush: they must be zero.
  if (type === NBD_CMD.FLUSH) return offset === 0 && length === 0 ? NBD_ERROR.OK : EINVAL;
  if (command.changes && rules.readOnly) return NBD_ERROR.EPERM;
  if (command.payload && length > rules.maxPayloadBytes) {
    return type === NBD_CMD.READ && rules.style !== 'simple' ? EOVERFLOW : EINVAL;
  }
  // Subtracting keeps this exact: a sum could leave the numbers that a double holds.
  if (offset > rules.sizeBytes || length > rules.sizeBytes - offset) return command.pastEnd;
  const unit = rules.minBlockBytes;
  if (unit > 1 && (offset % unit !== 0 || length % unit !== 0)) return EINVAL;
  if (type === NBD_CMD.BLOCK_STATUS) return length > 0 && rules.contexts.length > 0 ? NBD_ERROR.OK : EINVAL;
  if ((request.flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && !isFast(request.flags, rules)) return ENOTSUP;
  return NBD_ERROR.OK;
}

/** A WRITE with extended headers that announces no payload has none. */
export function isBareWrite({ type, flags }: RequestHeader): boolean {
  return type === NBD_CMD.WRITE && (flags & PAYLOAD) === 0;
}

function isFast(flags: number, { fastZero }: RequestRules): boolean {
  return fastZero === 'always' || (fastZero === 'holes' && (flags & NBD_CMD_FLAG_NO_HOLE) === 0);
}

export interface Refusal {
  /** For the client's user: short, and nothing that it doesn't know itself. */
  readonly message: string;
  /** Where on the disk it goes wrong, bytes; undefined where there is no such place, or it isn't the request's. */
  readonly offset?: number;
}

/** Why {@link checkRequest} refused a request with `error`. */
export function explainRefusal(request: RequestHeader, rules: RequestRules, error: number): Refusal {
  const { type, offset, length, flags } = request;
  const command = COMMANDS[rules.style][type];
  const name = nameOf(NBD_CMD, type);
  if (error === NBD_ERROR.ESHUTDOWN) return { message: 'the server is shutting down' };
  if (command === undefined) return { message: `command ${name} is not known here` };
  if ((flags & ~command.flags) !== 0) {
    return { message: `${name} does not take flags 0x${flags.toString(16)} here` };
  }
  if (rules.style === 'extended' && isBareWrite(request)) return { message: 'a WRITE without its payload' };
  if (error === NBD_ERROR.EPERM) return { message: 'the export is read-only' };
  if (error === ENOTSUP) return { message: 'zeroing is no faster than writing zeroes here' };
  const what = `${name} of ${length} bytes at ${offset}`;
  if (command.payload && length > rules.maxPayloadBytes) {
    return { message: `${what}: at most ${rules.maxPayloadBytes} bytes are allowed at once` };
  }
  if (offset > rules.sizeBytes || length > rules.sizeBytes - offset) {
    const message = `${what} goes past the end, which is at ${rules.sizeBytes}`;
    return offset < rules.sizeBytes ? { message, offset: rules.sizeBytes } : { message };
  }
  if (rules.minBlockBytes > 1 && (offset % rules.minBlockBytes !== 0 || length % rules.minBlockBytes !== 0)) {
    return { message: `${what} is not made of whole blocks of ${rules.minBlockBytes} bytes` };
  }
  if (type === NBD_CMD.BLOCK_STATUS && rules.contexts.length === 0) {
    return { message: 'no meta context was selected for this export' };
  }
  return { message: `${what} makes no sense` };
}

function commandTable(rows: ReadonlyArray<[number, CommandRules]>): Array<CommandRules | undefined> {
  const table = new Array<CommandRules | undefined>(NBD_CMD.RESIZE + 1).fill(undefined);
  for (const [type, rules] of rows) table[type] = rules;
  return table;
}
