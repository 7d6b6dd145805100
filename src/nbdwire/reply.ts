// The NBD simple reply header: its layout, and the fast encoder of the hot path. Structured replies get their own
// encoder beside this one.
import { struct } from '../wire/struct.ts';
import { NBD_SIMPLE_REPLY_MAGIC } from './constants.ts';

/** The header as documentation and tests read it; READ data follows when error is 0. Spec: "Simple reply message". */
export const simpleReplyStruct = struct('nbd simple reply', 'be', {
  magic: 'u32',
  error: 'u32',
  cookie: 'u64',
});

/** Writes a 16-byte simple reply header at `at`. @param error an NBD_ERROR value */
export function encodeSimpleReply(
  target: Buffer,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  target.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  target.writeUInt32BE(error, at + 4);
  target.writeUInt32BE(cookieHigh, at + 8);
  target.writeUInt32BE(cookieLow, at + 12);
}
