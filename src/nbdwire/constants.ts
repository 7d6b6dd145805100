// The NBD protocol's numbers, each once, in the order of the NBD project's doc/proto.md. Big-endian on the wire.

// Handshake
/** "NBDMAGIC" */
export const NBD_MAGIC = 0x4e42_444d_4147_4943n;
/** Follows NBD_MAGIC where a server speaks oldstyle. */
export const NBD_CLISERV_MAGIC = 0x0000_4202_8186_1253n;
/** "IHAVEOPT": the second magic of newstyle, and the magic of each option request. */
export const NBD_OPTS_MAGIC = 0x4948_4156_454f_5054n;
/** Magic of each option reply. */
export const NBD_REP_MAGIC = 0x0003_e889_0455_65a9n;

/** Handshake flags, server to client (16 bits). */
export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_NO_ZEROES = 1 << 1;

/** Client flags (32 bits). */
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_C_NO_ZEROES = 1 << 1;

/** Bytes of zeroes after the EXPORT_NAME reply unless NO_ZEROES was negotiated. */
export const NBD_EXPORT_NAME_ZEROES = 124;

/** Bytes of zeroes that end the oldstyle greeting. */
export const NBD_OLDSTYLE_ZEROES = 124;

/** Chunks and descriptors should begin and end at multiples of this where they can, bytes. */
export const SECTOR_GRID_BYTES = 512;

/** Longest string the protocol allows, bytes. */
export const NBD_MAX_STRING_BYTES = 4096;

/** Transmission flags (16 bits). */
export const NBD_FLAG_HAS_FLAGS = 1 << 0;
export const NBD_FLAG_READ_ONLY = 1 << 1;
export const NBD_FLAG_SEND_FLUSH = 1 << 2;
export const NBD_FLAG_SEND_FUA = 1 << 3;
export const NBD_FLAG_ROTATIONAL = 1 << 4;
export const NBD_FLAG_SEND_TRIM = 1 << 5;
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
export const NBD_FLAG_SEND_DF = 1 << 7;
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
export const NBD_FLAG_SEND_RESIZE = 1 << 9;
export const NBD_FLAG_SEND_CACHE = 1 << 10;
export const NBD_FLAG_SEND_FAST_ZERO = 1 << 11;
export const NBD_FLAG_BLOCK_STAT_PAYLOAD = 1 << 12;

/** Options, client to server. */
export const NBD_OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** Option reply types, server to client. */
export const NBD_REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
} as const;

const REP_ERROR = 2 ** 31;

/** Option error reply types: bit 31 set. */
export const NBD_REP_ERR = {
  UNSUP: REP_ERROR + 1,
  POLICY: REP_ERROR + 2,
  INVALID: REP_ERROR + 3,
  PLATFORM: REP_ERROR + 4,
  TLS_REQD: REP_ERROR + 5,
  UNKNOWN: REP_ERROR + 6,
  SHUTDOWN: REP_ERROR + 7,
  BLOCK_SIZE_REQD: REP_ERROR + 8,
  TOO_BIG: REP_ERROR + 9,
  EXT_HEADER_REQD: REP_ERROR + 10,
} as const;

/** Information types of INFO and GO. */
export const NBD_INFO = {
  EXPORT: 0,
  NAME: 1,
  DESCRIPTION: 2,
  BLOCK_SIZE: 3,
} as const;

// Transmission
/** Magic of a request. */
export const NBD_REQUEST_MAGIC = 0x2560_9513;
/** Magic of a simple reply. */
export const NBD_SIMPLE_REPLY_MAGIC = 0x6744_6698;
/** Magic of a structured reply chunk. */
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e_33ef;

/** Magics of a request and of a reply chunk once extended headers were negotiated. */
export const NBD_EXTENDED_REQUEST_MAGIC = 0x21e4_1c71;
export const NBD_EXTENDED_REPLY_MAGIC = 0x6e8a_278c;

/** Bytes of a request header, of a simple reply, and of the header of a structured reply chunk. */
export const NBD_REQUEST_BYTES = 28;
export const NBD_SIMPLE_REPLY_BYTES = 16;
export const NBD_STRUCTURED_REPLY_BYTES = 20;
/** The same with extended headers: a request, and a reply chunk. */
export const NBD_EXTENDED_REQUEST_BYTES = 32;
export const NBD_EXTENDED_REPLY_BYTES = 32;

/** Commands, client to server. */
export const NBD_CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const;

/** Command flags (16 bits). */
export const NBD_CMD_FLAG_FUA = 1 << 0;
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1;
export const NBD_CMD_FLAG_DF = 1 << 2;
export const NBD_CMD_FLAG_REQ_ONE = 1 << 3;
export const NBD_CMD_FLAG_FAST_ZERO = 1 << 4;
export const NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5;

/** Flags of a structured reply chunk (16 bits). */
export const NBD_REPLY_FLAG_DONE = 1 << 0;

const REPLY_ERROR = 2 ** 15;

/** Types of structured reply chunks; bit 15 marks an error. */
export const NBD_REPLY_TYPE = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: REPLY_ERROR + 1,
  ERROR_OFFSET: REPLY_ERROR + 2,
} as const;

/** The meta context of allocation, and the flags of its extents. */
export const NBD_BASE_ALLOCATION = 'base:allocation';
export const NBD_STATE_HOLE = 1 << 0;
export const NBD_STATE_ZERO = 1 << 1;

/** Error values of replies. */
export const NBD_ERROR = {
  OK: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The name of a number in one of the tables above, or its value in decimal when it has none. */
export function nameOf(table: Readonly<Record<string, number>>, value: number): string {
  for (const [name, number] of Object.entries(table)) if (number === value) return name;
  return String(value);
}
