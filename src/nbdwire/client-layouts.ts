// What the client reads in its own way during the handshake (doc/proto.md, "Protocol phases"); the rest is shared
// with the server. Sizes are u64 here, so that one that is too large can be named when it is refused.
import { struct } from '../wire/struct.ts';

/** Follows "NBDMAGIC" when the server speaks newstyle. */
export const GREETING = struct('greeting', 'be', { style: 'u64', flags: 'u16' });

/** Data of NBD_INFO_EXPORT, its type included. */
export const INFO_EXPORT = struct('export information', 'be', { type: 'u16', size: 'u64', flags: 'u16' });

/** The answer to EXPORT_NAME; zeroes may follow. */
export const EXPORT_NAME_REPLY = struct('EXPORT_NAME reply', 'be', { size: 'u64', flags: 'u16' });
