// Fixed layouts of structured replies, block status and extended headers, in the order of the spec's "Structured reply
// message", "Structured reply types", "Metadata querying" and "Extended headers". Both sides of the protocol use them.
import { struct } from '../wire/struct.ts';

/** Starts each chunk of a structured reply; `length` bytes of payload follow. */
export const structuredReplyStruct = struct('nbd structured reply', 'be', {
  magic: 'u32',
  flags: 'u16',
  type: 'u16',
  cookie: 'u64',
  length: 'u32',
});

/** The same with extended headers; `offset` repeats the request's. */
export const extendedReplyStruct = struct('nbd extended reply', 'be', {
  magic: 'u32',
  flags: 'u16',
  type: 'u16',
  cookie: 'u64',
  offset: 'u64',
  length: 'u64',
});

/** A request with extended headers. */
export const extendedRequestStruct = struct('nbd extended request', 'be', {
  magic: 'u32',
  flags: 'u16',
  type: 'u16',
  cookie: 'u64',
  offset: 'u64',
  length: 'u64',
});

/** NBD_REPLY_TYPE_OFFSET_DATA; the data follow. */
export const offsetDataStruct = struct('nbd offset data', 'be', { offset: 'u64' });

/** NBD_REPLY_TYPE_OFFSET_HOLE. */
export const offsetHoleStruct = struct('nbd offset hole', 'be', { offset: 'u64', length: 'u32' });

/** NBD_REPLY_TYPE_ERROR; the message follows. */
export const chunkErrorStruct = struct('nbd chunk error', 'be', { error: 'u32', messageLength: 'u16' });

/** Ends NBD_REPLY_TYPE_ERROR_OFFSET, behind the message. */
export const chunkErrorOffsetStruct = struct('nbd chunk error offset', 'be', { offset: 'u64' });

/** Starts NBD_REPLY_TYPE_BLOCK_STATUS; descriptors follow. */
export const blockStatusStruct = struct('nbd block status', 'be', { contextId: 'u32' });

/** One descriptor of BLOCK_STATUS. */
export const extentStruct = struct('nbd extent', 'be', { length: 'u32', flags: 'u32' });

/** Starts NBD_REPLY_TYPE_BLOCK_STATUS_EXT; `count` descriptors follow. */
export const blockStatusExtStruct = struct('nbd block status ext', 'be', { contextId: 'u32', count: 'u32' });

/** One descriptor of BLOCK_STATUS_EXT. */
export const extentExtStruct = struct('nbd extent ext', 'be', { length: 'u64', flags: 'u64' });

/** Starts NBD_REP_META_CONTEXT; the name follows. */
export const metaContextStruct = struct('nbd meta context', 'be', { contextId: 'u32' });
