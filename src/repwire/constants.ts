// The numbers of the agent-hub protocol, each once. Little-endian on the wire. RFC: from the 2012 proposal; OURS: this project's.
import { KiB, MAX_FRAME_PAYLOAD_BYTES, MAX_NAME_BYTES, MAX_VOLUMES_PER_AGENT, MiB } from '../base/limits.ts';

/** Port on which a hub listens for agents. */
export const DEFAULT_HUB_PORT = 9010;

/** First and last word of the fixed part of a frame (OURS). */
export const FRAME_MAGIC1 = 0x1122;
export const FRAME_MAGIC2 = 0x3344;

/** Fixed part of a frame, and the parameters inside it, bytes (OURS). */
export const FRAME_HEADER_BYTES = 56;
export const FRAME_PARAMS_OFFSET = 8;
export const FRAME_PARAMS_BYTES = 44;

/** Version of the extensions that a HELLO names. */
export const PROTOCOL_VERSION = 1;

/** "HELO", little-endian: an agent that can say HELLO puts it into its report; an RFC agent leaves zero there. */
export const HELLO_OFFER = 0x4f4c_4548;

/** Commands. 2..7 are the RFC's, from 64 up OURS. */
export const REP_CMD = {
  PROTECTED_WRITE: 2,
  REPORT_VM_VOLUMES: 3,
  START_PROTECT: 4,
  REMOTE_IO_REQ: 5,
  REMOTE_IO_RES: 6,
  AGENT_SHUTDOWN: 7,
  HELLO: 64,
  ACK: 65,
  PROTECTED_ZERO: 66,
  PROTECTED_FLUSH: 67,
  CHECKPOINT: 68,
  DIRTY: 69,
  HASH_REQ: 70,
  HASH_RES: 71,
  PING: 72,
  PONG: 73,
  VERIFY_REQ: 74,
  VERIFY_RES: 75,
  VOLUME_ERROR: 76,
  CLAIM: 77,
  RECORDED: 78,
  PACKED: 79,
} as const;

/** First id that a peer without HELLO must never be sent. */
export const FIRST_EXTENSION_CMD = 64;

/** Bytes of one volume in REPORT_VM_VOLUMES: name, id, size. */
export const VOLUME_RECORD_BYTES = MAX_NAME_BYTES + 1 + 8 + 8;

/** Bytes of one extent in DIRTY and VERIFY_RES: offset and length in sectors. */
export const EXTENT_RECORD_BYTES = 16;

/** Most extents in one frame. */
export const MAX_EXTENTS_PER_FRAME = 4096;

/** Largest range of one REMOTE_IO or HASH request, bytes. */
export const MAX_REMOTE_IO_BYTES = 4 * MiB;

/** Largest range of a wide read, and the least that a short answer of one covers unless that is all of it, bytes. */
export const MAX_WIDE_READ_BYTES = 1024 * MiB;
export const LEAST_WIDE_ANSWER_BYTES = 256 * KiB;

/** Bytes of a digest: SHA-256. */
export const DIGEST_BYTES = 32;

/** Longest text in a frame, bytes of UTF-8. */
export const MAX_TEXT_BYTES = 4096;

/** Largest content of PACKED once unpacked, bytes: the largest answer with its fixed part fits. */
export const MAX_PACKED_CONTENT_BYTES = MAX_REMOTE_IO_BYTES + FRAME_HEADER_BYTES;

/** Largest payload of each command, bytes. Anything above ends the connection before memory is taken. */
export const MAX_PAYLOAD_BYTES: Readonly<Record<number, number>> = {
  [REP_CMD.PROTECTED_WRITE]: MAX_FRAME_PAYLOAD_BYTES,
  [REP_CMD.REPORT_VM_VOLUMES]: MAX_VOLUMES_PER_AGENT * VOLUME_RECORD_BYTES,
  [REP_CMD.START_PROTECT]: MAX_NAME_BYTES,
  [REP_CMD.REMOTE_IO_REQ]: MAX_REMOTE_IO_BYTES,
  [REP_CMD.REMOTE_IO_RES]: MAX_REMOTE_IO_BYTES,
  [REP_CMD.AGENT_SHUTDOWN]: 0,
  [REP_CMD.HELLO]: MAX_NAME_BYTES,
  [REP_CMD.ACK]: 0,
  [REP_CMD.PROTECTED_ZERO]: 0,
  [REP_CMD.PROTECTED_FLUSH]: 0,
  [REP_CMD.DIRTY]: MAX_EXTENTS_PER_FRAME * EXTENT_RECORD_BYTES,
  [REP_CMD.HASH_REQ]: 0,
  [REP_CMD.HASH_RES]: DIGEST_BYTES,
  [REP_CMD.PING]: 0,
  [REP_CMD.PONG]: 0,
  [REP_CMD.VERIFY_REQ]: 0,
  [REP_CMD.VERIFY_RES]: MAX_EXTENTS_PER_FRAME * EXTENT_RECORD_BYTES,
  [REP_CMD.VOLUME_ERROR]: MAX_TEXT_BYTES,
  [REP_CMD.CLAIM]: 0,
  [REP_CMD.RECORDED]: 0,
  [REP_CMD.PACKED]: MAX_PACKED_CONTENT_BYTES,
};

/** What PROTECTED_ZERO stands for. */
export const ZERO_KIND = { WRITE_ZEROES: 0, TRIM: 1 } as const;

/** Flag bits of REMOTE_IO_RES (extension): the range is all zero and the payload was left out. */
export const RES_FLAG_ALL_ZERO = 1;

/** Flag bits of START_PROTECT (extension): the hub kept this volume's replica and says up to which sequence. */
export const START_FLAG_RESUME = 1;

/** Of START_PROTECT: pairing and generation count; the agent keeps them before it answers. */
export const START_FLAG_PAIRED = 2;

/** Of START_PROTECT: the replica lacks what the agent's kept map names, and nothing else. */
export const START_FLAG_RECALL = 4;

/** Feature bits of HELLO. PAIRING: CLAIM, RECORDED and the pairing in START_PROTECT. */
export const FEATURE_PAIRING = 1;

/** Feature bit of HELLO: the hub can unpack brotli, the agent may pack with it. Another codec gets another bit. */
export const FEATURE_BROTLI = 2;

/** Feature bit of HELLO: REMOTE_IO_REQ may read more than an answer can carry, and be answered for its start alone. */
export const FEATURE_WIDE_READS = 4;

/** What PACKED may be packed with: the number that it carries, and the feature bit of each. */
export const PACK_CODECS = {
  brotli: { id: 1, feature: FEATURE_BROTLI },
} as const;
export type PackCodec = keyof typeof PACK_CODECS;

/** Whether `flags`, of at most 32 bits, has `flag`. */
export function hasFlag(flags: number, flag: number): boolean {
  return (flags & flag) !== 0;
}

/** Flag bits of CLAIM: the map that the agent kept may be believed. */
export const CLAIM_FLAG_BELIEVED = 1;

/** What an agent found of the dirty map that it had kept, as CLAIM carries it, in the order of the numbers. */
export const CLAIM_FINDINGS = [
  'new',
  'clean',
  'agent-crash',
  'exact',
  'host-crash',
  'image-changed',
  'corrupt',
  'foreign',
] as const;
export type ClaimFinding = (typeof CLAIM_FINDINGS)[number];

/** Flag bits of DIRTY (extension): more DIRTY frames with the same sequence follow. */
export const DIRTY_FLAG_MORE = 1;

/** Of DIRTY: changed_bytes counts. */
export const DIRTY_FLAG_COUNTED = 2;

/** Status of HASH_RES. BUSY: the range changed while it was read; ask again. */
export const HASH_STATUS = { OK: 0, FAILED: -1, BUSY: 1 } as const;

/** Status of VERIFY_RES. */
export const VERIFY_STATUS = { DONE: 0, FAILED: -1, PROGRESS: 1 } as const;

/** Protection states as an ACK carries them, in the order of the numbers. */
export const ACK_STATES = ['initial-sync', 'resync', 'converging', 'protected', 'failed'] as const;
export type AckState = (typeof ACK_STATES)[number];
