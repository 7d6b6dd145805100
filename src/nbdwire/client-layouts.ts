// What the client reads and writes during the handshake, as layouts (doc/proto.md, "Protocol phases"). Only data:
// no state and no checks.
import { struct } from '../wire/struct.ts';

/** Follows "NBDMAGIC" when the server speaks newstyle. */
export const GREETING = struct('greeting', 'be', { style: 'u64', flags: 'u16' });

/** Header of every option request; its data follows. */
export const OPTION = struct('option', 'be', { magic: 'u64', option: 'u32', length: 'u32' });

/** Header of every option reply; its data follows. */
export const OPTION_REPLY = struct('option reply', 'be', {
  magic: 'u64',
  option: 'u32',
  type: 'u32',
  length: 'u32',
});

/** Data of NBD_INFO_EXPORT, its type included. */
export const INFO_EXPORT = struct('export information', 'be', { type: 'u16', size: 'u64', flags: 'u16' });

/** Data of NBD_INFO_BLOCK_SIZE, its type included. */
export const INFO_BLOCK_SIZE = struct('block size information', 'be', {
  type: 'u16',
  minimum: 'u32',
  preferred: 'u32',
  maximum: 'u32',
});

/** The answer to EXPORT_NAME; zeroes may follow. */
export const EXPORT_NAME_REPLY = struct('EXPORT_NAME reply', 'be', { size: 'u64', flags: 'u16' });
